"""Training lanes of the SideNet: each lane reads one document after another in consecutive segments.

A lane's document is a book with facts planted in it that are asked for after the window has passed, or a stream of
labelled demonstrations whose queries come later. Lanes never mix, and their memory is emptied between documents.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast

from longmem.training.data import TokenCorpus
from longmem.training.facts import make_fact, make_template
from longmem.training.rows import IGNORED, Piece
from longmem.training.tasks import DemonstrationStreams


@dataclass(frozen=True)
class LaneMixture:
    """What lanes read.

    segments: longest document, in segments; memory_segments: how many a lane's memory holds.
    facts: share of documents with planted facts; facts_per_segment: of those; demonstrations: share of documents that
    are streams of demonstrations.
    """

    segments: int = 40
    memory_segments: int = 16
    facts: float = 0.6
    facts_per_segment: float = 1.5
    demonstrations: float = 0.1


@dataclass
class LaneDocument:
    """One document of a lane: ids, which of them are taught, and which answer a question. All [segments * T + 1]."""

    ids: np.ndarray
    taught: np.ndarray
    asked: np.ndarray


class LaneDocuments:
    """Makes documents for lanes, the same ones for a seed."""

    def __init__(
        self,
        corpora: list[TokenCorpus],
        shares: list[float],
        tokenizer: PreTrainedTokenizerFast,
        *,
        length: int,
        mixture: LaneMixture,
    ) -> None:
        self.corpora, self.shares, self.tokenizer = corpora, shares, tokenizer
        self.length, self.mixture = length, mixture
        self.streams = DemonstrationStreams(corpora, shares, tokenizer)

    def make(self, rng: Random) -> LaneDocument:
        if rng.random() < self.mixture.demonstrations:
            return self._demonstrations(rng)
        corpus = rng.choices(self.corpora, self.shares)[0]
        text = corpus.document(rng.randrange(len(corpus)))
        most = self.mixture.segments * self.length + 1
        if len(text) > most:
            start = rng.randrange(len(text) - most)
            text = text[start : start + most]
        with_facts = rng.random() < self.mixture.facts
        return self._plant(rng, text.astype(np.int64), self._facts(rng, len(text)) if with_facts else [])

    def _facts(self, rng: Random, length: int) -> list[tuple[int, Piece]]:
        """(place in the text, piece): a statement, and its question further away than the window but within memory."""
        placed = []
        reach = max(1, self.mixture.memory_segments - 2) * self.length
        # Of few forms, so that facts of one form stand in memory together and the name has to tell them apart.
        forms = [make_template(rng) for _ in range(rng.choice((2, 6, 24)))]
        for _ in range(int(length / self.length * self.mixture.facts_per_segment)):
            fact = make_fact(rng, template=rng.choice(forms))
            ids, question = (
                self.tokenizer(text, add_special_tokens=False)["input_ids"]
                for text in (f"\n\n{fact.statement}\n\n", f"\n\n{fact.question}")
            )
            prefix = len(question)
            place = rng.randrange(length)
            distance = int(self.length * (reach / self.length) ** rng.random())
            placed.append((place, Piece(ids, taught=False)))
            if place + distance < length:
                placed.append((place + distance, Piece(ids, asked_from=prefix)))
        return sorted(placed, key=lambda item: item[0])

    def _plant(self, rng: Random, text: np.ndarray, placed: list[tuple[int, Piece]]) -> LaneDocument:
        ids, taught, asked = [], [], []
        used = 0
        for place, piece in placed:
            ids += [text[used:place], np.asarray(piece.ids, dtype=np.int64)]
            taught += [np.ones(place - used, bool), np.full(len(piece.ids), piece.taught)]
            marks = np.zeros(len(piece.ids), bool)
            if piece.asked_from is not None:
                marks[piece.asked_from : -1] = True
            asked += [np.zeros(place - used, bool), marks]
            used = place
        rest = len(text) - used
        return self._whole_segments(
            np.concatenate([*ids, text[used:]]),
            np.concatenate([*taught, np.ones(rest, bool)]),
            np.concatenate([*asked, np.zeros(rest, bool)]),
        )

    def _demonstrations(self, rng: Random) -> LaneDocument:
        """A stream of demonstrations; the first segment only teaches, since memory is empty."""
        stream = self.streams.make(rng, self.mixture.segments // 2 * self.length + 1)
        stream.asked[: self.length] = False
        return self._whole_segments(stream.ids, stream.taught, stream.asked)

    def _whole_segments(self, ids: np.ndarray, taught: np.ndarray, asked: np.ndarray) -> LaneDocument:
        segments = max(1, (len(ids) - 1) // self.length)
        size = segments * self.length + 1
        short = max(0, size - len(ids))
        return LaneDocument(
            np.pad(ids[:size], (0, short)), np.pad(taught[:size], (0, short)), np.pad(asked[:size], (0, short))
        )


class Lanes(IterableDataset):
    """Endless batches {"input_ids" [B, T], "labels" [B, T], "asked" [B, T], "starts" [B]}: segment after segment.

    starts marks the lanes that begin a new document with this batch. What comes depends on the seed and `first_batch`.
    Of several processes each has `lanes` of them, from `first_lane` on: together they read what one would.
    """

    def __init__(
        self, documents: LaneDocuments, *, lanes: int, seed: int, first_batch: int = 0, first_lane: int = 0
    ) -> None:
        self.documents, self.lanes, self.seed, self.first_batch = documents, lanes, seed, first_batch
        self.first_lane = first_lane

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        # After a resume the lanes start anew from a seed of their own: their memories are gone anyway.
        numbers = range(self.first_lane, self.first_lane + self.lanes)
        streams = [self._lane(Random(f"{self.seed}-{self.first_batch}-{lane}")) for lane in numbers]
        while True:
            rows = [next(stream) for stream in streams]
            yield {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _lane(self, rng: Random) -> Iterator[dict[str, torch.Tensor]]:
        T = self.documents.length
        while True:
            document = self.documents.make(rng)
            for index in range((len(document.ids) - 1) // T):
                span = slice(index * T, (index + 1) * T + 1)
                ids, taught, asked = (torch.from_numpy(a[span].copy()) for a in vars(document).values())
                yield {
                    "input_ids": ids[:-1].long(),
                    "labels": torch.where(taught[1:], ids[1:].long(), IGNORED),
                    "asked": asked[1:],
                    "starts": torch.tensor(index == 0),
                }
