"""Classifying a text by demonstrations: in the window before it, in memory, or both.

A label scores the log-probability of all its tokens after the text. Calibrated, its score after a text without content,
in the same window and with the same memory, is taken off (Zhao et al. 2021): what is left is what the text says, not
what the model likes to say. Where one label begins another ("yes", "yes, certainly"), what follows a label in the
template counts with it, since the shorter one could never lose.

Shapes: N labels, Q texts, B rows, T tokens, V vocabulary.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from longmem.cache import repeated
from longmem.demonstrations import Demonstration, DemonstrationSet, Template, to_document
from longmem.errors import LongMemError
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM
from longmem.scoring import score_tokens
from longmem.trace import RetrievalTrace

NO_CONTENT = "N/A"
ROWS_AT_ONCE = 16  # each with a copy of the window's states
MOST_LABELS = 100


# Tokens ------------------------------------------------------------------------------------------------------------


def tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Token ids without special tokens."""
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def query_tokens(tokenizer: PreTrainedTokenizerFast, template: Template, text: str) -> list[int]:
    """What follows the demonstrations up to the label: white space between two goes with what comes after it."""
    pattern = template.pattern
    return tokens(tokenizer, pattern[len(pattern.rstrip()) :] + template.prompt(text))


def label_tokens(tokenizer: PreTrainedTokenizerFast, template: Template, label: str) -> list[int]:
    """A label with the white space before it, as it stands after a prompt."""
    bare = Template(template.pattern[: template.pattern.index("{label}") + len("{label}")])
    return tokens(tokenizer, bare.render(Demonstration("-", label, 0))[len(bare.prompt("-")) :])


def all_label_tokens(tokenizer: PreTrainedTokenizerFast, template: Template, labels: Sequence[str]) -> list[list[int]]:
    """Of every label its tokens, with the token after it in the template where one label begins another.

    Errors: LongMemError where the tokenizer knows nothing of a label, or cannot tell two apart.
    """
    found = [label_tokens(tokenizer, template, label) for label in labels]
    for place, label in enumerate(labels):
        if not found[place]:
            raise LongMemError(f"The label {label!r} holds no character that the model's tokenizer knows.")
        if found[place] in found[:place]:
            twin = labels[found.index(found[place])]
            raise LongMemError(f"The labels {twin!r} and {label!r} are the same to the model's tokenizer: rename one.")
    if any(begins(a, b) for a in found for b in found if a is not b):
        after = tokens(tokenizer, template.pattern.partition("{label}")[2])[:1]
        found = [label + after for label in found]
    return found


def begins(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether the second begins with the first."""
    return list(second[: len(first)]) == list(first)


def fit_window(
    tokenizer: PreTrainedTokenizerFast, template: Template, demonstrations: Sequence[Demonstration], room: int
) -> tuple[int, list[int]]:
    """The largest number of the first demonstrations that fits in `room` tokens, and their tokens; 0 if none does."""
    for used in range(len(demonstrations), 0, -1):
        ids = tokens(tokenizer, to_document(demonstrations[:used], template, "window").text.rstrip())
        if len(ids) <= room:
            return used, ids
    return 0, []


# Scores ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """Of each text [Q]: log-probability of each label [Q, N], and the most probable token."""

    label_log_p: np.ndarray
    top_token: np.ndarray


def score_labels(
    continued: Callable[[Tensor], Tensor], queries: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]
) -> Scores:
    """Scores of every label after every query; both are lists of token ids.

    continued: takes rows [B, T] that follow what stands in the window, and gives their logits [B, T, V].
    """
    label_log_p, top_token = np.zeros((len(queries), len(labels))), np.zeros(len(queries), dtype=int)
    # A label's last token is predicted, never read: labels share a row where one's other tokens begin another's.
    read = {tuple(label[:-1]) for label in labels}
    stems = sorted(stem for stem in read if not any(other != stem and begins(stem, other) for other in read))
    rows = [(number, stem) for number in range(len(queries)) for stem in stems]
    rows.sort(key=lambda row: len(queries[row[0]]) + len(row[1]))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = rows[start : start + ROWS_AT_ONCE]
        texts = [[*queries[number], *stem] for number, stem in batch]
        longest = max(map(len, texts))
        logits_BTV = continued(torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts]))
        for (number, stem), logits_TV in zip(batch, logits_BTV, strict=True):
            first = len(queries[number]) - 1
            log_p_TV = logits_TV[first : first + len(stem) + 1].float().log_softmax(-1)
            top_token[number] = log_p_TV[0].argmax().item()
            for place, label in enumerate(labels):
                if begins(label[:-1], stem):
                    label_log_p[number, place] = sum(log_p_TV[i, token].item() for i, token in enumerate(label))
    return Scores(label_log_p, top_token)


# Classifying -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """The labels there are, how a demonstration is written, and demonstrations for the window, best first.

    Errors: LongMemError for fewer than two labels, or more than MOST_LABELS.
    """

    labels: tuple[str, ...]
    template: Template
    in_window: tuple[Demonstration, ...] = ()

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            only = f"only {self.labels[0]!r}" if self.labels else "none"
            raise LongMemError(f"There must be two labels at least to tell texts apart; there is {only}.")
        if len(self.labels) > MOST_LABELS:
            raise LongMemError(
                f"There are {len(self.labels):,} different labels; at most {MOST_LABELS} are allowed. Is the label "
                "column the right one?"
            )


@dataclass(frozen=True)
class Answer:
    """What follows from one memory: log-probabilities, in nats, of each label after the text and after no content."""

    log_p_N: np.ndarray
    no_content_N: np.ndarray

    def scores(self, *, calibrated: bool = True) -> np.ndarray:
        """Score of each label [N], in nats."""
        return self.log_p_N - self.no_content_N if calibrated else self.log_p_N

    def probabilities(self, *, calibrated: bool = True) -> np.ndarray:
        """Probability of each label [N] among the labels: they sum to 1."""
        scores_N = self.scores(calibrated=calibrated)
        weights_N = np.exp(scores_N - scores_N.max())
        return weights_N / weights_N.sum()

    def choice(self, *, calibrated: bool = True) -> int | None:
        """The label with the highest score; None where two share it."""
        scores_N = self.scores(calibrated=calibrated)
        best = np.flatnonzero(scores_N == scores_N.max())
        return int(best[0]) if len(best) == 1 else None


class Classifier:
    """Classifies texts by one task and one memory; what stands in the window is read once.

    memory: the bank to search, None for none. texts: what will be asked for, at least as long as the longest of it: the
    window holds as many demonstrations as fit beside it. in_window: how many do. silence: layers and heads that do
    without memory, as in `LongMemForCausalLM.forward`.
    Errors: LongMemError where a text alone does not fit in the window.
    """

    def __init__(
        self,
        model: LongMemForCausalLM,
        task: Task,
        memory: MemoryBank | None,
        texts: Sequence[str],
        *,
        silence: Collection[tuple[int, int | None]] = (),
    ) -> None:
        self.model, self.task, self._searched = model, task, {"memory": memory, "silence": silence}
        tokenizer = model.need_tokenizer()
        self.labels = all_label_tokens(tokenizer, task.template, task.labels)
        longest_label = max(map(len, self.labels)) - 1  # its last token is never read
        longest = max(len(self.query(text)) for text in (*texts, NO_CONTENT))
        room = model.config.window - longest - longest_label
        if room < 0:
            raise LongMemError(
                f"A text takes {longest} tokens with its template, and its label up to {longest_label + 1}; the window "
                f"holds {model.config.window}: shorten the text."
            )
        self.in_window, self.prefix = fit_window(tokenizer, task.template, task.in_window, room)
        self._cache = self._read_prefix()
        [self._no_content_N] = self._scores([NO_CONTENT])

    def query(self, text: str) -> list[int]:
        """Tokens of a text as it stands before its label, after the demonstrations in the window."""
        return query_tokens(self.model.need_tokenizer(), self.task.template, text)

    def ask(self, texts: Sequence[str]) -> list[Answer]:
        """The answer for each text."""
        return [Answer(log_p_N, self._no_content_N) for log_p_N in self._scores(texts)]

    def _scores(self, texts: Sequence[str]) -> np.ndarray:
        return score_labels(self._continued, [self.query(text) for text in texts], self.labels).label_log_p

    @torch.no_grad()
    def _read_prefix(self) -> object:
        if not self.prefix:
            return None
        ids_BT = torch.tensor([self.prefix], device=self.model.device)
        return self.model(ids_BT, use_cache=True, logits_to_keep=1, **self._searched).cache

    @torch.no_grad()
    def _continued(self, ids_BT: Tensor) -> Tensor:
        cache = repeated(self._cache, len(ids_BT)) if self._cache is not None else None
        return self.model(ids_BT.to(self.model.device), cache=cache, **self._searched).logits


@dataclass(frozen=True)
class Classification:
    """A text that was classified with memory and without.

    trace: of the text in its template and the label that memory chose, from `label_step` on; what was in the window
    before it is not traced. in_window: how many demonstrations that was.
    """

    text: str
    labels: tuple[str, ...]
    with_memory: Answer
    without: Answer
    in_window: int
    trace: RetrievalTrace
    label_step: int


def classify(
    model: LongMemForCausalLM,
    text: str,
    task: Task,
    memory: MemoryBank,
    *,
    silence: Collection[tuple[int, int | None]] = (),
) -> Classification:
    """Classify a text with this memory and with an empty one; silence: as in `Classifier`.

    Errors: LongMemError where it is empty or too long.
    """
    if not text.strip():
        raise LongMemError("The text is empty: write what is to be classified.")
    remembering, plain = (Classifier(model, task, bank, [text], silence=silence) for bank in (memory, None))
    [with_memory], [without] = remembering.ask([text]), plain.ask([text])
    query, label = remembering.query(text), remembering.labels[int(with_memory.scores().argmax())]
    first = max(1, len(remembering.prefix))  # without anything before it the first token is predicted by nothing
    ids = [*remembering.prefix, *query, *label]
    trace = score_tokens(model, ids, first, memory=memory, silence=silence)
    step = len(ids) - len(label) - first
    return Classification(text, task.labels, with_memory, without, remembering.in_window, trace, step)


# The vote ----------------------------------------------------------------------------------------------------------


def retrieved_demonstrations(
    trace: RetrievalTrace, step: int, memory: MemoryBank, document: int, shown: DemonstrationSet
) -> pd.DataFrame:
    """What the query before a step retrieved: `layer, demonstration, weight`, the heaviest of each layer first.

    demonstration: its number in `shown`, which is this document of the bank; -1 for all other documents together.
    weight: attention in memory times gate, averaged over the heads, so that a layer's sum to its mean gate. That of a
    chunk that reaches over two demonstrations is divided between them by its characters.
    """
    frame = trace.to_frame()
    heads = frame.groupby("layer")["head"].nunique()
    frame = frame[frame.step == step]
    own = {chunk.id for chunk in memory.chunks() if chunk.document == document}
    parts = [
        (row.layer, number, row.weight * share / heads[row.layer])
        for row in frame.itertuples()
        for number, share in (shown.shares(row.start, row.end) if row.chunk in own else [(-1, 1.0)])
    ]
    table = pd.DataFrame(parts, columns=["layer", "demonstration", "weight"])
    table = table.groupby(["layer", "demonstration"], as_index=False)["weight"].sum()
    return table.sort_values(["layer", "weight"], ascending=[True, False], kind="stable", ignore_index=True)


def vote(retrieved: pd.DataFrame, shown: DemonstrationSet, labels: Sequence[str]) -> np.ndarray:
    """The weights of the retrieved demonstrations, summed per label [N] over all layers; other documents have none."""
    place = {label: i for i, label in enumerate(labels)}
    found_N = np.zeros(len(labels))
    for row in retrieved[retrieved.demonstration >= 0].itertuples():
        found_N[place[shown.demonstrations[row.demonstration].label]] += row.weight
    return found_N
