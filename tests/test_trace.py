"""From recorded arrays to tables, without any model."""

import numpy as np
import pytest
import torch

from longmem.errors import LongMemError
from longmem.retrieval import Retrieval
from longmem.trace import (
    COLUMNS,
    GATE_COLUMNS,
    TOKEN_COLUMNS,
    Passage,
    RetrievalTrace,
    TraceRecorder,
    collect_passages,
    join_blocks,
    token_logprobs,
)

H, C, S = 2, 3, 4
PASSAGES = {7: Passage("story", 0, 5, "Once "), 9: Passage("story", 5, 9, "upon"), -2: Passage("generated", 0, 1, "🙂")}


def record(recorder: TraceRecorder, layer: int, tokens: int, chunks: tuple[int, ...] = (7, 9, -1)) -> None:
    """A block in which every query finds `chunks`, with attention by rank and a gate of 0.5."""
    shape = (1, H, tokens)
    mask = (torch.tensor(chunks) != -1).repeat_interleave(S).expand(*shape, C * S)
    weights = torch.arange(C * S, 0, -1.0).expand(*shape, C * S) * mask
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
    nothing = torch.zeros(*shape, C * S, 2)
    scores = torch.tensor([3.0, 2.0, 1.0]).masked_fill(torch.tensor(chunks) == -1, -torch.inf).expand(*shape, C)
    found = Retrieval(nothing, nothing, scores, torch.tensor(chunks).expand(*shape, C), mask)
    recorder.record(layer, found, weights, 0.5 * mask.any(-1).float())


def call(recorder: TraceRecorder, tokens: int, layers: tuple[int, ...] = (1, 3), keep: int | None = None) -> None:
    recorder.keep = keep
    for layer in layers:
        record(recorder, layer, tokens)
    recorder.see_logits(torch.zeros(1, tokens if keep is None else keep, 4))


def trace_of(recorder: TraceRecorder, steps: int) -> RetrievalTrace:
    zeros = [0.0] * steps
    return RetrievalTrace(
        ["t"] * steps, list(range(steps)), zeros, [-0.5] * steps, join_blocks(recorder, steps), PASSAGES
    )


def test_columns_and_their_order():
    recorder = TraceRecorder()
    call(recorder, 2)
    trace = trace_of(recorder, 2)
    frame = trace.to_frame()
    assert list(frame.columns) == COLUMNS
    assert list(trace.tokens_frame().columns) == TOKEN_COLUMNS
    assert list(trace.gates_frame().columns) == GATE_COLUMNS
    order = frame[["step", "layer", "head", "rank"]].to_numpy().tolist()
    assert order == sorted(order)
    assert len(frame) == 2 * 2 * H * 2  # steps, layers, heads, and two chunks of the three asked for


def test_weights_of_a_step_layer_and_head_sum_to_its_gate():
    recorder = TraceRecorder()
    call(recorder, 3)
    sums = trace_of(recorder, 3).to_frame().groupby(["step", "layer", "head"]).agg({"weight": "sum", "gate": "first"})
    assert sums.weight.tolist() == pytest.approx(sums.gate.tolist())
    assert sums.gate.tolist() == pytest.approx([0.5] * len(sums))


def test_rows_say_where_a_chunk_stands():
    recorder = TraceRecorder()
    call(recorder, 1, layers=(1,))
    row = trace_of(recorder, 1).to_frame().iloc[1]
    assert (row.chunk, row.document, row.start, row.end, row.text, row["rank"]) == (9, "story", 5, 9, "upon", 1)


def test_where_nothing_was_retrieved_there_are_no_rows_and_the_gate_is_zero():
    recorder = TraceRecorder()
    record(recorder, 1, 2, chunks=(-1, -1, -1))
    recorder.see_logits(torch.zeros(1, 2, 4))
    trace = trace_of(recorder, 2)
    assert trace.to_frame().empty
    assert (trace.gates_frame().gate == 0).all()


def test_an_empty_trace_has_all_columns_and_types():
    trace = trace_of(TraceRecorder(), 2)
    frame, whole = trace.to_frame(), TraceRecorder()
    call(whole, 1)
    assert list(frame.columns) == COLUMNS
    assert frame[["step", "layer", "head", "rank", "chunk", "start", "end"]].dtypes.eq("int64").all()
    assert list(trace.gates_frame().columns) == GATE_COLUMNS
    assert len(trace.tokens_frame()) == 2


def test_effect_is_the_difference_of_the_two_log_probabilities():
    frame = trace_of(TraceRecorder(), 3).tokens_frame()
    assert frame.effect.tolist() == [0.5] * 3


def test_only_the_positions_whose_logits_are_kept_are_recorded():
    recorder = TraceRecorder()
    call(recorder, 5, keep=2)
    assert recorder.layers[1][0].gate_HT.shape == (H, 2)
    recorder.keep = 0
    record(recorder, 1, 4)
    assert len(recorder.layers[1]) == 1


def test_steps_before_anything_is_in_memory_are_silent():
    recorder = TraceRecorder()
    for layers in [(), (), (1, 3), (1, 3)]:
        call(recorder, 1, layers=layers)
    assert trace_of(recorder, 4).to_frame().step.unique().tolist() == [2, 3]
    # Within one call over many positions as well: the first window retrieves nothing.
    recorder = TraceRecorder()
    record(recorder, 1, 2)
    recorder.see_logits(torch.zeros(1, 5, 4))
    assert trace_of(recorder, 5).to_frame().step.unique().tolist() == [3, 4]


def test_a_trace_taken_while_the_model_is_ahead_shows_the_same_steps():
    recorder = TraceRecorder()
    for layers in [(), (), (1, 3), (1, 3)]:
        call(recorder, 1, layers=layers)
    assert trace_of(recorder, 3).to_frame().step.unique().tolist() == [2]
    record(recorder, 1, 1)  # one layer of the next token, in the middle of a call
    assert trace_of(recorder, 4).to_frame().step.unique().tolist() == [2, 3]
    assert trace_of(recorder, 2).to_frame().empty


def test_several_rows_have_no_trace():
    nothing = torch.zeros(2, H, 1, C * S, 2)
    found = Retrieval(nothing, nothing, torch.zeros(2, H, 1, C), torch.zeros(2, H, 1, C).long(), nothing[..., 0].bool())
    with pytest.raises(LongMemError, match="2 are running"):
        TraceRecorder().record(1, found, nothing[..., 0], torch.zeros(2, H, 1))


def test_each_passage_is_looked_up_once():
    recorder, asked = TraceRecorder(), []
    call(recorder, 2)

    def find(chunk: int) -> Passage:
        asked.append(chunk)
        return PASSAGES[chunk]

    layers = join_blocks(recorder, 2)
    known = collect_passages(layers, {}, find)
    assert sorted(asked) == [7, 9]
    assert collect_passages(layers, known, find) == known
    assert len(asked) == 2


def test_log_probabilities_are_in_nats():
    logits = torch.tensor([[0.0, np.log(3.0)], [1.0, 1.0]])
    assert token_logprobs(logits, [1, 0]) == pytest.approx([np.log(0.75), np.log(0.5)])
