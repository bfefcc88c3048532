"""Score a given text, or only look things up for it: what each token retrieved, and what memory did to it."""

import math
from collections.abc import Collection

import torch

from longmem.errors import LongMemError
from longmem.generation import PassageFinder, RunningText
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM
from longmem.trace import RetrievalTrace, TraceRecorder, collect_passages, join_blocks, token_logprobs


def continuation_point(
    model: LongMemForCausalLM, memory: MemoryBank, document: int, character: int
) -> tuple[str, tuple[int, int]]:
    """How to go on with a document of the bank at a character: the text before it, and where the search must end.

    The prompt is the last half window before the character. The search ends where the prompt begins, since what the
    prompt holds is in the local window already.
    """
    record = memory.documents.get(document)
    if record is None:
        raise LongMemError(f"document is {document}; nothing of it is in memory (any more), so it cannot be continued.")
    if not 0 < character <= len(record.text):
        raise LongMemError(f"character is {character}; {record.name} can be continued from 1 to {len(record.text)}.")
    encoded = model.tokenizer(record.text, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
    starts = torch.tensor([start for start, _ in encoded["offset_mapping"]])
    end_token = int(torch.searchsorted(starts, character))
    first_token = max(0, end_token - model.config.window // 2)
    return record.text[int(starts[first_token]) : character], (document, first_token)


@torch.no_grad()
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
    ids = before_ids + _token_ids(model, text)
    first = max(1, len(before_ids))
    if len(ids) <= first:
        raise LongMemError(f"text is {text!r}; it must hold at least {2 if not before_ids else 1} tokens to be scored.")
    ids_BT = torch.tensor([ids[:-1]], device=model.device)
    wanted = ids[first:]
    recorder = TraceRecorder()
    options = {"use_cache": True, "logits_to_keep": len(wanted)}
    switches = {"before": before, "exclude": exclude, "silence": silence}
    with_bank = model(ids_BT, memory=memory, recorder=recorder, **switches, **options).logits[0]
    logprobs = logprobs_empty = token_logprobs(with_bank, wanted)
    if memory is not None and not memory.is_empty:
        logprobs_empty = token_logprobs(model(ids_BT, **options).logits[0], wanted)
    return _trace(model, recorder, memory, ids, first, logprobs, logprobs_empty)


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
