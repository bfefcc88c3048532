"""What can be switched off or set anew without reading again: layers, heads, retrieved tokens, capacity."""

import math

import numpy as np
import pytest
import torch

from longmem.documents import Document
from longmem.errors import BankMismatchError, LongMemError
from longmem.generation import stream
from longmem.scoring import chunk_scores, look_up, score

STORY = "The lighthouse keeper wrote the name of every ship in a long ledger. In the morning the ship returned. " * 6
TEXT = "The keeper read the ledger again, and the ship was not in it."


@pytest.fixture
def bank(tiny_model):
    bank = tiny_model.new_bank()
    tiny_model.remember(Document.from_text("story", STORY), memory=bank)
    return bank


def logits(model, bank, **options) -> torch.Tensor:
    ids = torch.tensor([model.tokenizer(TEXT)["input_ids"][:30]])
    with torch.no_grad():
        return model(ids, memory=bank, **options).logits


def test_silencing_every_layer_is_an_empty_memory(tiny_model, bank):
    silent = logits(tiny_model, bank, silence=[(1, None), (3, None)])
    assert torch.equal(silent, logits(tiny_model, None))
    assert not torch.equal(silent, logits(tiny_model, bank))


def test_silencing_all_heads_of_a_layer_is_silencing_the_layer(tiny_model, bank):
    by_head = logits(tiny_model, bank, silence=[(3, head) for head in range(4)])
    assert torch.allclose(by_head, logits(tiny_model, bank, silence=[(3, None)]), atol=1e-5)
    one = logits(tiny_model, bank, silence=[(3, 2)])
    assert not torch.allclose(one, by_head)
    assert not torch.allclose(one, logits(tiny_model, bank))


def test_a_silent_head_has_no_weight_and_the_others_keep_theirs(tiny_model, bank):
    silent, whole = (score(tiny_model, TEXT, memory=bank, silence=silence).to_frame() for silence in ([(1, 2)], []))
    first = (silent.layer == 1) & (silent.step == 0)
    assert (silent[(silent.layer == 1) & (silent["head"] == 2)].weight == 0).all()
    others = silent[first & (silent["head"] != 2)].weight.to_numpy()
    assert others == pytest.approx(
        whole[(whole.layer == 1) & (whole.step == 0) & (whole["head"] != 2)].weight.to_numpy(), abs=1e-6
    )


def test_generation_and_scoring_agree_on_what_is_silent(tiny_model, bank):
    options = {"memory": bank, "silence": [(1, None), (3, 0)]}
    generation = stream(tiny_model, "The ship", max_new_tokens=6, greedy=True, **options)
    tokens = list(generation)
    trace = score(tiny_model, "".join(t.text for t in tokens), context="The ship", **options)
    assert [t.logprob for t in tokens] == pytest.approx(trace.logprobs, abs=1e-4)
    assert set(generation.trace.to_frame().layer) == {3}


def test_looking_up_shows_what_the_query_at_each_token_finds(tiny_model, bank):
    found = look_up(tiny_model, TEXT, memory=bank)
    scored = score(tiny_model, TEXT, memory=bank)
    assert len(found.tokens) == len(scored.tokens) + 1
    assert "".join(found.tokens) == TEXT
    one, other = found.to_frame(), scored.to_frame()
    rows = one[one.step < len(scored.tokens)]
    assert rows.chunk.tolist() == other.chunk.tolist()  # step i of a score is the query at the token before
    assert all(math.isnan(p) for p in found.logprobs)
    with pytest.raises(LongMemError, match="text is empty"):
        look_up(tiny_model, "", memory=bank)


def test_a_twin_shares_the_weights_and_retrieves_another_number_of_tokens(tiny_model, bank):
    twin = tiny_model.with_retrieval(retrieved_tokens=8)
    assert twin.sidenet is tiny_model.sidenet
    assert score(twin, TEXT, memory=bank).to_frame()["rank"].max() == 1
    assert score(tiny_model, TEXT, memory=bank).to_frame()["rank"].max() == 3
    assert (tiny_model.config.retrieved_tokens, twin.config.retrieved_tokens) == (16, 8)
    with pytest.raises(LongMemError, match="retrieved_tokens is 6"):
        tiny_model.with_retrieval(retrieved_tokens=6)


def test_a_twin_with_other_chunks_reads_and_generates_but_not_from_the_old_bank(tiny_model, bank):
    twin = tiny_model.with_retrieval(chunk_size=8)
    with pytest.raises(BankMismatchError, match="chunks of 4"):
        score(twin, TEXT, memory=bank)
    own = twin.new_bank()
    twin.remember(Document.from_text("story", STORY), memory=own)
    assert own.n_tokens == bank.n_tokens
    text = "".join(t.text for t in stream(twin, TEXT * 2, memory=own, max_new_tokens=40, seed=1))
    assert text
    assert logits(twin, None).equal(logits(tiny_model, None))


def test_a_bank_that_is_made_smaller_keeps_its_newest_chunks(tiny_model, bank):
    chunks = list(bank.chunks())
    state = score(tiny_model, TEXT, memory=bank).logprobs
    bank.resize(8192)
    assert list(bank.chunks()) == chunks
    assert score(tiny_model, TEXT, memory=bank).logprobs == pytest.approx(state)
    bank.resize(42)
    assert bank.capacity == 40
    assert list(bank.chunks()) == chunks[-10:]
    tiny_model.remember(Document.from_text("second", STORY), memory=bank)
    assert bank.n_tokens <= 40
    assert [record.name for record in bank.documents.values()] == ["second"]
    with pytest.raises(LongMemError, match="capacity is 3"):
        bank.resize(3)


@pytest.mark.parametrize("greedy", [True, False])
def test_a_run_taken_up_in_the_middle_goes_on_as_it_did(tiny_model, bank, greedy):
    options = {"memory": bank, "greedy": greedy, "temperature": 0.9, "seed": 4}
    whole = list(stream(tiny_model, "The ship", max_new_tokens=40, **options))
    written = [token.token_id for token in whole[:25]]
    rest = list(stream(tiny_model, "The ship", written=written, max_new_tokens=15, **options))
    assert [token.token_id for token in rest] == [token.token_id for token in whole[25:]]
    assert [t.logprob for t in rest] == pytest.approx([t.logprob for t in whole[25:]], abs=1e-4)


def test_every_chunk_has_a_score_and_the_retrieved_ones_have_the_best(tiny_model, bank):
    bank.resize(100)  # the ring has wrapped around
    tiny_model.remember(Document.from_text("more", STORY[:150]), memory=bank)
    ids = tiny_model.tokenizer(TEXT)["input_ids"]
    rows = look_up(tiny_model, TEXT, memory=bank).to_frame()
    place = {chunk.id: i for i, chunk in enumerate(bank.chunks())}
    for layer, scores_HC in chunk_scores(tiny_model, ids, memory=bank).items():
        assert scores_HC.shape == (4, bank.n_chunks)
        for head in range(4):
            found = rows[(rows.step == len(ids) - 1) & (rows.layer == layer) & (rows["head"] == head)]
            best = np.argsort(-scores_HC[head], kind="stable")[: len(found)]
            assert {place[c] for c in found.chunk} == set(best.tolist())
            assert scores_HC[head][[place[c] for c in found.chunk]] == pytest.approx(found.score.to_numpy(), rel=1e-4)


def test_an_empty_bank_has_no_scores(tiny_model):
    assert chunk_scores(tiny_model, [5, 6], memory=tiny_model.new_bank()) == {}
