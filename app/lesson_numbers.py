"""The numbers of the lesson: the sample story seen through the model at hand, computed when first asked for.

Everything is over a bank of the lesson's own, so that it does not depend on what a visitor has in memory; what has been
computed is kept for all visitors. Shapes: T tokens, H query heads, C chunks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from app.reading import OPENING_PROMPT, OPENING_SAMPLE, SampleShelf
from longmem.anatomy import Anatomy, ModelShape, dissect, every_score, shape_of, stored_states
from longmem.documents import Document, segments
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM

LONGEST_ANSWER = 60  # characters
FALLBACK = 60  # characters of a story in which the opening prompt does not stand


@dataclass(frozen=True)
class Story:
    """A document and one sentence of it, which the lesson takes apart; `prompt + answer` is the sentence.

    places: the first token of the sentence, everywhere it stands. spans: of each token [T, 2], in characters.
    """

    name: str
    text: str
    prompt: str
    answer: str
    token_ids: np.ndarray
    spans: np.ndarray
    places: list[int]

    def token_at(self, character: int) -> int:
        """The token that holds a character."""
        return int(np.searchsorted(self.spans[:, 1], character, side="right"))

    def answer_token(self, place: int) -> int:
        """The first token of the answer where the sentence begins with token `place`; spaces do not count."""
        start = int(self.spans[place, 0]) + self.text[int(self.spans[place, 0]) :].index(self.prompt)
        answer = start + len(self.prompt) + len(self.answer) - len(self.answer.lstrip())
        return self.token_at(answer)


def read_story(document: Document, model: LongMemForCausalLM) -> Story:
    """The story's tokens, and its sentence: that of the opening prompt, else the first words."""
    encoded = document.encode(model.need_tokenizer())
    text, spans = document.text, encoded.spans.numpy()
    prompt, answer = find_sentence(text)
    found, at = [], text.find(prompt + answer)
    while at >= 0:
        found.append(int(np.searchsorted(spans[:, 1], at, side="right")))
        at = text.find(prompt + answer, at + 1)
    return Story(document.name, text, prompt, answer, encoded.token_ids.numpy(), spans, found)


def find_sentence(text: str) -> tuple[str, str]:
    """The prompt and its answer, without the mark that ends it."""
    at = text.find(OPENING_PROMPT)
    if at >= 0:
        rest = text[at + len(OPENING_PROMPT) :][:LONGEST_ANSWER]
        ends = [end for end in (rest.find(mark) for mark in ".,;!?\n") if end > 0]
        return OPENING_PROMPT, rest[: min(ends, default=len(rest))]
    words = text[:FALLBACK].rsplit(" ", 1)[0]
    cut = words.rfind(" ")
    return (words[:cut], words[cut:]) if cut > 0 else (words[:1], words[1:])


@dataclass(frozen=True)
class Scored:
    """All chunks of memory as one head scored them for one query, best first; `texts` are of the first and last."""

    layer: int
    head: int
    scores_C: np.ndarray
    best: list[tuple[int, float, str]]
    worst: tuple[int, float, str]


@dataclass(frozen=True)
class Removal:
    """What is left of a token's probability when something is taken out of memory; `weight` is what it had, 0 to 1."""

    what: str
    weight: float | None
    probability: float


@dataclass(frozen=True)
class Reread:
    """The beginning of the story, read again: how many of the numbers in memory are the same, bit for bit."""

    tokens: int
    numbers: int
    same: int
    largest_difference: float


class LessonNumbers:
    """The lesson's numbers for one model; each is computed once. Errors: LongMemError where there is no story."""

    def __init__(self, model: LongMemForCausalLM, shelf: SampleShelf):
        self.model = model
        self._shelf = shelf
        self._scored: dict[int, list[Scored]] = {}

    @cached_property
    def shape(self) -> ModelShape:
        return shape_of(self.model)

    @cached_property
    def story(self) -> Story:
        return read_story(self._shelf.document(OPENING_SAMPLE), self.model)

    @cached_property
    def bank(self) -> MemoryBank:
        return self._shelf.opening_bank()

    @cached_property
    def token_ids(self) -> list[int]:
        """Of the sentence; at most a window, from its end."""
        ids = self._ids(self.story.prompt) + self._ids(self.story.answer)
        return ids[-self.shape.window :]

    @cached_property
    def tokens(self) -> list[str]:
        """The sentence's tokens as text."""
        return [self.model.need_tokenizer().decode([token]) for token in self.token_ids]

    @cached_property
    def asked(self) -> int:
        """The last token of the prompt: its query looks up what comes next."""
        return max(0, len(self.token_ids) - len(self._ids(self.story.answer)) - 1)

    @cached_property
    def anatomy(self) -> Anatomy:
        return dissect(self.model, self.token_ids, memory=self.bank)

    def weights(self, token: int) -> dict[tuple[int, int, int], float]:
        """(memory layer, head, chunk) -> its weight, attention inside memory times gate, for one query."""
        found = {}
        for layer, seen in self.anatomy.memory.items():
            weights_HC = seen.weights_HTC[:, token] * seen.gate_HT[:, token, None]
            for head, chunks_C in enumerate(seen.chunks_HTC[:, token]):
                found |= {
                    (layer, head, int(chunk)): float(weight)
                    for chunk, weight in zip(chunks_C, weights_HC[head], strict=True)
                    if chunk >= 0
                }
        return found

    def strongest(self, token: int) -> tuple[int, int, int]:
        """The memory layer, head and chunk of the largest weight."""
        weights = self.weights(token)
        return max(weights, key=weights.get)

    def scored(self, token: int) -> list[Scored]:
        """Every head of every memory layer, for the query of one token of the sentence."""
        if token not in self._scored:
            self._scored[token] = [
                self._scored_by(layer, head, scores_C, chunks_C)
                for layer, seen in self.anatomy.memory.items()
                for head, (scores_C, chunks_C) in enumerate(
                    zip(*every_score(self.bank, layer, seen.queries_HTD[:, token]), strict=True)
                )
            ]
        return self._scored[token]

    @cached_property
    def removals(self) -> list[Removal]:
        """The probability of the answer's first token with memory, without some of it, and with an empty one."""
        weights = self.weights(self.asked)
        heaviest = self.strongest(self.asked)[2]
        stated = self.stated_chunks()

        def share(chunks: Sequence[int]) -> float:
            """The weight of some chunks, summed over layers and heads, as a share of all weight."""
            return sum(w for (_, _, chunk), w in weights.items() if chunk in chunks) / max(sum(weights.values()), 1e-12)

        taken = [(f"chunk #{heaviest} «{self.chunk_text(heaviest)}»", [heaviest])]
        if stated:
            taken.append((f"every chunk of the sentence ({len(stated)})", stated))
        return [
            Removal("nothing", None, self.probability(())),
            *(Removal(what, share(chunks), self.probability(chunks)) for what, chunks in taken),
            Removal("all of memory", 1.0, self.probability(None)),
        ]

    @torch.no_grad()
    def probability(self, exclude: Sequence[int] | None) -> float:
        """p of the answer's first token after the prompt without some chunks; None is an empty memory."""
        ids_BT = torch.tensor([self.token_ids[: self.asked + 1]], device=self.model.device)
        memory = {"memory": self.bank, "exclude": exclude} if exclude is not None else {}
        logits_V = self.model(ids_BT, logits_to_keep=1, **memory).logits[0, -1]
        return float(logits_V.float().softmax(-1)[self.token_ids[self.asked + 1]])

    def stated_chunks(self) -> list[int]:
        """Ids of the chunks that hold any of the sentence, everywhere it stands."""
        length = len(self.story.prompt) + len(self.story.answer)
        starts = [self.story.text.index(self.story.prompt, int(self.story.spans[p, 0])) for p in self.story.places]
        return [c.id for c in self.bank.chunks() if any(c.start < s + length and c.stop > s for s in starts)]

    @cached_property
    def reread(self) -> Reread:
        """Read the first segments of the story again, as many at a time as the first time, and compare."""
        fresh, shape = self.model.new_bank(), self.shape
        size = self.model.segments_at_once
        parts = segments(len(self.story.token_ids), shape.window, shape.read_overlap)[:size]
        parts = [part for part in parts if part.end - part.first == parts[0].end - parts[0].first]
        ids = torch.from_numpy(self.story.token_ids)
        self.model.read_segments(ids, parts, memory=fresh, document=fresh.begin_document(self.story.name))
        same, largest = 0, 0.0
        for layer in shape.memory_layers:
            for old, new in zip(stored_states(self.bank, layer), stored_states(fresh, layer), strict=True):
                difference = (old[:, : new.shape[1]].float() - new.float()).abs()
                same += int((difference == 0).sum())
                largest = max(largest, float(difference.max()))
        return Reread(fresh.n_tokens, fresh.n_tokens * shape.numbers_per_token, same, largest)

    def chunk_text(self, chunk: int) -> str:
        """The text of a chunk of the lesson's bank."""
        where = self.bank.chunk(chunk)
        return self.story.text[where.start : where.stop]

    def _scored_by(self, layer: int, head: int, scores_C: np.ndarray, chunks_C: np.ndarray) -> Scored:
        def row(place: int) -> tuple[int, float, str]:
            chunk = int(chunks_C[place])
            return chunk, float(scores_C[place]), self.chunk_text(chunk)

        return Scored(layer, head, scores_C, [row(i) for i in range(min(3, len(scores_C)))], row(-1))

    def _ids(self, text: str) -> list[int]:
        return self.model.need_tokenizer()(text, add_special_tokens=False)["input_ids"]
