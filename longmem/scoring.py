"""Score a given text, or only look things up for it: what each token retrieved, and what memory did to it."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longmem.errors import LongMemError
from longmem.generation import PassageFinder, RunningText
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM
from longmem.retrieval import DocumentRecord, Retrieval
from longmem.trace import RetrievalTrace, TraceRecorder, collect_passages, join_blocks, token_logprobs


def continuation_point(
    model: LongMemForCausalLM, memory: MemoryBank, document: int, character: int
) -> tuple[str, tuple[int, int]]:
    """How to go on with a document of the bank at a character: the text before it, and where the search must end.

    The prompt is the last half window before the character. The search ends where the prompt begins, since what the
    prompt holds is in the local window already.
    """
    record, _, spans = _document(model, memory, document, character)
    end_token = int(torch.searchsorted(spans[:, 0].contiguous(), character))
    first_token = max(0, end_token - model.config.window // 2)
    return record.text[int(spans[first_token, 0]) : character], (document, first_token)


@dataclass(frozen=True)
class ScoredPage:
    """Characters `start` to `stop` of a document, scored after `context`, the text before them in the same window.

    `before` is where the search ended.
    """

    start: int
    stop: int
    context: str
    before: tuple[int, int]
    trace: RetrievalTrace


def score_pages(
    model: LongMemForCausalLM,
    memory: MemoryBank,
    document: int,
    character: int,
    *,
    page_tokens: int,
    silence: Collection[tuple[int, int | None]] = (),
) -> Iterator[ScoredPage]:
    """Score a document of the bank page by page, from the first token at or after a character to its end.

    Every page searches only what stands before its context, which is half a window.

    Raises:
        LongMemError: nothing of the document is in memory, or the character is outside it.
    """
    record, ids, spans = _document(model, memory, document, character)
    starts = range(int(torch.searchsorted(spans[:, 0].contiguous(), character)), len(ids), page_tokens)
    for start in starts:
        stop = min(start + page_tokens, len(ids))
        first = max(0, start - model.config.window // 2)
        options = {"memory": memory, "before": (document, first), "silence": silence}
        trace = score_tokens(model, ids[first:stop], first=max(1, start - first), **options)
        at, end = int(spans[start, 0]), int(spans[stop - 1, 1])
        yield ScoredPage(at, end, record.text[int(spans[first, 0]) : at], (document, first), trace)


def _document(
    model: LongMemForCausalLM, memory: MemoryBank, document: int, character: int
) -> tuple[DocumentRecord, list[int], Tensor]:
    """A document of the bank with its token ids and their characters [T, 2]. Errors: LongMemError."""
    record = memory.documents.get(document)
    if record is None:
        raise LongMemError(f"document is {document}; nothing of it is in memory (any more), so it cannot be continued.")
    if not 0 < character <= len(record.text):
        raise LongMemError(f"character is {character}; {record.name} can be continued from 1 to {len(record.text)}.")
    encoded = model.tokenizer(record.text, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
    return record, encoded["input_ids"], torch.tensor(encoded["offset_mapping"])


def score(
    model: LongMemForCausalLM,
    text: str,
    *,
    context: str = "",
    memory: MemoryBank | None,
    before: tuple[int, int] | None = None,
    exclude: Collection[int] = (),
    silence: Collection[tuple[int, int | None]] = (),
) -> RetrievalTrace:
    """The trace of a given text: what each token retrieved, and its log-probability with and without the bank.

    Args:
        context: text before it, which is read but not scored. Without it the first token has nothing to be predicted
            from and is left out.
        before, exclude, silence: as in `stream`.
    """
    before_ids = _token_ids(model, context) if context else []
    ids = _token_ids(model, text)
    least = 1 if before_ids else 2
    if len(ids) < least:
        raise LongMemError(f"text is {text!r}; it must hold at least {least} tokens to be scored.")
    options = {"memory": memory, "before": before, "exclude": exclude, "silence": silence}
    return score_tokens(model, before_ids + ids, first=max(1, len(before_ids)), **options)


@torch.no_grad()
def score_tokens(
    model: LongMemForCausalLM,
    ids: Sequence[int],
    first: int,
    *,
    memory: MemoryBank | None,
    before: tuple[int, int] | None = None,
    exclude: Collection[int] = (),
    silence: Collection[tuple[int, int | None]] = (),
) -> RetrievalTrace:
    """As `score`, of the tokens from `first` on, which is at least 1."""
    recorder, options = TraceRecorder(), {"before": before, "exclude": exclude, "silence": silence}
    logprobs = logprobs_empty = logprobs_with(model, ids, first, memory=memory, recorder=recorder, **options)
    if memory is not None and not memory.is_empty:
        logprobs_empty = logprobs_with(model, ids, first, memory=None)
    return _trace(model, recorder, memory, list(ids), first, logprobs, logprobs_empty)


@torch.no_grad()
def logprobs_with(
    model: LongMemForCausalLM,
    ids: Sequence[int],
    first: int,
    *,
    memory: MemoryBank | None,
    before: tuple[int, int] | None = None,
    exclude: Collection[int] = (),
    silence: Collection[tuple[int, int | None]] = (),
    recorder: TraceRecorder | None = None,
) -> list[float]:
    """The log-probabilities alone of the tokens from `first` on, which is at least 1, in one pass with the bank."""
    ids_BT = torch.tensor([list(ids[:-1])], device=model.device)
    wanted = list(ids[first:])
    switches = {"before": before, "exclude": exclude, "silence": silence, "recorder": recorder}
    output = model(ids_BT, memory=memory, use_cache=True, logits_to_keep=len(wanted), **switches)
    return token_logprobs(output.logits[0], wanted)


@torch.no_grad()
def look_up(
    model: LongMemForCausalLM,
    text: str,
    *,
    memory: MemoryBank | None,
    exclude: Collection[int] = (),
    silence: Collection[tuple[int, int | None]] = (),
) -> RetrievalTrace:
    """The trace of what a text retrieves, with nothing written: step i is what the query at its token i found.

    Log-probabilities are not a number: nothing was predicted.
    """
    ids = _token_ids(model, text)
    if not ids:
        raise LongMemError("text is empty; give at least one token to look something up for.")
    recorder = TraceRecorder()
    ids_BT = torch.tensor([ids], device=model.device)
    model(ids_BT, memory=memory, recorder=recorder, exclude=exclude, silence=silence, use_cache=True)
    unknown = [math.nan] * len(ids)
    return _trace(model, recorder, memory, ids, 0, unknown, unknown)


@torch.no_grad()
def chunk_scores(
    model: LongMemForCausalLM,
    ids: Sequence[int],
    *,
    memory: MemoryBank,
    before: tuple[int, int] | None = None,
    silence: Collection[tuple[int, int | None]] = (),
) -> dict[int, np.ndarray]:
    """By memory layer, how well every chunk of the bank answers the query at the last of these tokens: fp32 [H, C].

    In the order of `memory.chunks()`; what may not be retrieved has a score too.
    """
    watched = _WatchedBank(memory)
    ids_BT = torch.tensor([list(ids)], device=model.device)
    options = {"before": before, "silence": silence, "use_cache": True, "logits_to_keep": 1}
    model(ids_BT, memory=watched, **options)
    return {layer: memory.scores(layer, q_BH1D)[0, :, 0].numpy() for layer, q_BH1D in watched.queries.items()}


class _WatchedBank:
    """A bank that remembers the last query of each layer."""

    def __init__(self, bank: MemoryBank) -> None:
        self._bank = bank
        self.queries: dict[int, Tensor] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._bank, name)

    def search(self, layer: int, queries_BHTD: Tensor, **options: object) -> Retrieval:
        self.queries[layer] = queries_BHTD[:, :, -1:]
        return self._bank.search(layer, queries_BHTD, **options)


def _trace(
    model: LongMemForCausalLM,
    recorder: TraceRecorder,
    memory: MemoryBank | None,
    ids: list[int],
    first: int,
    logprobs: list[float],
    logprobs_empty: list[float],
) -> RetrievalTrace:
    """What was recorded for the tokens from `first` on."""
    running = RunningText(model.need_tokenizer(), ids)
    layers = join_blocks(recorder, len(ids) - first)
    passages = collect_passages(layers, {}, PassageFinder(memory, running, model.config.chunk_size))
    return RetrievalTrace(running.pieces[first:], ids[first:], logprobs, logprobs_empty, layers, passages)


def _token_ids(model: LongMemForCausalLM, text: str) -> list[int]:
    return model.need_tokenizer()(text, add_special_tokens=False, verbose=False)["input_ids"]
