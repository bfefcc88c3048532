"""Training rows of the backbone: ordinary text, and the rows that make induction heads form.

Repeated spans and facts that are stated and asked for within one window teach a head to look up "what came after this
last time". Without them such heads take a hundred times more text to appear.
"""

from dataclasses import astuple, dataclass
from random import Random

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from longmem.errors import TrainingDataError
from longmem.training.data import RESERVED, TokenCorpus
from longmem.training.facts import make_fact, make_template
from longmem.training.tasks import DemonstrationStreams

IGNORED = -100


@dataclass(frozen=True)
class RowMixture:
    """Shares of each kind of row; the rest is ordinary text."""

    repeated: float = 0.25
    random_facts: float = 0.2
    facts: float = 0.1
    demonstrations: float = 0.0

    def scaled(self, factor: float) -> "RowMixture":
        return RowMixture(*(share * factor for share in astuple(self)))


@dataclass(frozen=True)
class Piece:
    """Tokens to place in a row: whether the model is taught to predict them, and from where on it is asked."""

    ids: list[int]
    taught: bool = True
    asked_from: int | None = None


class BackboneRows(Dataset):
    """Row i, the same for ever for a seed: {"input_ids" [T], "labels" [T], "asked" [T]}; labels are the next tokens.

    The first `dense_rows` rows use `mixture`, those after it `mixture` scaled by `later`.
    """

    def __init__(
        self,
        corpora: list[TokenCorpus],
        shares: list[float],
        tokenizer: PreTrainedTokenizerFast,
        *,
        length: int,
        rows: int,
        dense_rows: int,
        mixture: RowMixture,
        later: float,
        seed: int,
    ) -> None:
        self.corpora, self.shares, self.tokenizer = corpora, shares, tokenizer
        for corpus in corpora:
            if len(corpus.ids) <= length + 1:
                raise TrainingDataError(
                    f"packs: one holds {len(corpus.ids)} tokens; a row of this run needs {length + 2} at least."
                )
        self.length, self.rows, self.dense_rows = length, rows, dense_rows
        self.mixture, self.later, self.seed = mixture, mixture.scaled(later), seed
        self.streams = DemonstrationStreams(corpora, shares, tokenizer)
        self.first_id = len(RESERVED) + 2
        self.key, self.equals, self.ask = (tokenizer.convert_tokens_to_ids(t) for t in RESERVED[:3])

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = Random(self.seed * 1_000_003 + index)
        mixture = self.mixture if index < self.dense_rows else self.later
        shares = astuple(mixture)
        kinds = (self._repeated_span, self._random_facts, self._facts, self._demonstrations, lambda _: [])
        make = rng.choices(kinds, [*shares, max(0.0, 1.0 - sum(shares))])[0]
        return self._assemble(rng, make(rng))

    def _text(self, rng: Random, length: int) -> np.ndarray:
        corpus = rng.choices(self.corpora, self.shares)[0]
        start = rng.randrange(len(corpus.ids) - length)
        return corpus.ids[start : start + length].astype(np.int64)

    def _random_ids(self, rng: Random, length: int) -> list[int]:
        return [rng.randrange(self.first_id, len(self.tokenizer)) for _ in range(length)]

    def _repeated_span(self, rng: Random) -> list[Piece]:
        """A span that comes twice, or a short one that comes until the row is full: the denser, the sooner it works."""
        longest = self.length // 2 - 4
        length = rng.randrange(min(16, longest), longest)
        times = 2 if rng.random() < 0.5 else max(2, int(self.length * 0.9) // length)
        random = rng.random() < 0.6
        span = self._random_ids(rng, length) if random else self._text(rng, length).tolist()
        return [Piece(span, taught=not random), *[Piece(span, asked_from=3)] * (times - 1)]

    def _random_facts(self, rng: Random) -> list[Piece]:
        """Facts of random tokens; in half of the rows the same words stand between each name and its value."""
        stated, asked = [], []
        between = self._random_ids(rng, rng.choice((0, 0, 1, 2, 4, 7)))
        for _ in range(rng.randrange(3, max(4, self.length // (20 + 2 * len(between))))):
            name, value = self._random_ids(rng, rng.randrange(2, 4)), self._random_ids(rng, rng.randrange(1, 5))
            middle = [*name, *between, self.equals]
            stated.append(Piece([self.key, *middle, *value], taught=False))
            asked.append(Piece([self.ask, *middle, *value], asked_from=len(middle) + 1))
        rng.shuffle(asked)
        return stated + asked

    def _facts(self, rng: Random) -> list[Piece]:
        """Facts in sentences; in most rows several have one form, so that only the name tells them apart."""
        stated, asked = [], []
        forms = [make_template(rng) for _ in range(rng.choice((1, 1, 2, 8)))]
        for _ in range(rng.randrange(2, max(3, self.length // 50))):
            fact = make_fact(rng, template=rng.choice(forms))
            ids = self.tokenizer(f"\n\n{fact.statement}\n\n")["input_ids"]
            prefix = len(self.tokenizer(f"\n\n{fact.question}")["input_ids"])
            stated.append(Piece(ids, taught=False))
            asked.append(Piece(ids, asked_from=prefix))
        rng.shuffle(asked)
        return stated + asked

    def _demonstrations(self, rng: Random) -> list[Piece]:
        """One stream of labelled demonstrations over the whole row, as pieces of what is alike."""
        stream = self.streams.make(rng, self.length + 1)
        cuts = (np.flatnonzero(np.diff(stream.asked) | np.diff(stream.taught)) + 1).tolist()
        spans = zip([0, *cuts], [*cuts, self.length + 1], strict=True)
        return [
            Piece(stream.ids[a:b].tolist(), bool(stream.taught[a]), 0 if stream.asked[a] else None) for a, b in spans
        ]

    def _assemble(self, rng: Random, pieces: list[Piece]) -> dict[str, torch.Tensor]:
        """Spread the pieces in order over one row of running text; pieces that do not fit are left out, last first."""
        total = self.length + 1
        while pieces and sum(len(p.ids) for p in pieces) > total:
            pieces = pieces[:-1]
        free = total - sum(len(p.ids) for p in pieces)
        text = self._text(rng, total)
        cuts = sorted(rng.randrange(free + 1) for _ in pieces)
        ids, taught, asked = [], [], []
        used = 0
        for piece, cut in zip(pieces, cuts, strict=True):
            ids += [text[used:cut], np.asarray(piece.ids, dtype=np.int64)]
            taught += [np.ones(cut - used, bool), np.full(len(piece.ids), piece.taught)]
            marks = np.zeros(len(piece.ids), bool)
            if piece.asked_from is not None:
                marks[piece.asked_from :] = True
            asked += [np.zeros(cut - used, bool), marks]
            used = cut
        rest = free - used
        row = np.concatenate([*ids, text[used : used + rest]])
        learn = np.concatenate([*taught, np.ones(rest, bool)])
        marks = np.concatenate([*asked, np.zeros(rest, bool)])
        labels = np.where(learn, row, IGNORED)
        return {
            "input_ids": torch.from_numpy(row[:-1]),
            "labels": torch.from_numpy(labels[1:]),
            "asked": torch.from_numpy(marks[1:]),
        }
