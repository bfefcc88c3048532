"""The model as a whole: memory, window, cache, rows, threads, files."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from longmem.documents import Document
from longmem.errors import BankMismatchError, LongMemError
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM
from longmem.row_memory import RowMemory
from longmem.trace import TraceRecorder
from tests.conftest import tiny_smollm3

STORY = "The keeper wrote the name of every ship in a ledger. In the morning the ship returned to the sea. " * 8


def fill(model: LongMemForCausalLM, text: str = STORY, **options: object) -> MemoryBank:
    bank = model.new_bank(dtype=torch.float32, **options)
    model.remember(Document.from_text("story", text), memory=bank)
    return bank


def contents(bank: MemoryBank, folder: Path) -> str:
    """A hash of all that a bank would save."""
    bank.save(folder)
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def ids_of(model: LongMemForCausalLM, length: int, rows: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, model.config.get_text_config().vocab_size, (rows, length), generator=generator)


@pytest.fixture
def bank(tiny_model) -> MemoryBank:
    return fill(tiny_model)


def test_an_empty_bank_changes_nothing(tiny_model):
    ids = ids_of(tiny_model, 32)
    without = tiny_model(ids).logits
    assert torch.equal(tiny_model(ids, memory=tiny_model.new_bank()).logits, without)


def test_a_filled_bank_changes_the_logits(tiny_model, bank):
    ids = ids_of(tiny_model, 32)
    assert (tiny_model(ids, memory=bank).logits - tiny_model(ids).logits).abs().max() > 1e-3


def test_a_sidenet_with_outputs_at_zero_begins_as_the_backbone():
    model = LongMemForCausalLM.from_backbone(tiny_smollm3(), memory_layers=[1], window=32, initialization="zero")
    ids = ids_of(model, 32)
    torch.testing.assert_close(model(ids).logits, model.backbone.causal_lm(ids).logits, atol=1e-5, rtol=1e-5)


def test_both_gates_begin_equal():
    logits = []
    for gate in ("scalar", "query"):
        options = {"memory_layers": [1, 3], "window": 32, "gate": gate, "initialization": "paper"}
        model = LongMemForCausalLM.from_backbone(tiny_smollm3(), **options)
        row_memory = RowMemory([1, 3], capacity=64, chunk_size=4)
        states = model.backbone(ids_of(model, 32, seed=1))
        row_memory.add(
            {b: qkv[1] for b, qkv in states.qkv.items()},
            {b: qkv[2] for b, qkv in states.qkv.items()},
            torch.ones(1, 32, dtype=torch.bool),
        )
        logits.append(model(ids_of(model, 32), row_memory=row_memory).logits)
    assert torch.equal(*logits)


def test_a_cpu_reads_searches_and_generates(tiny_model):
    """The official code crashes there."""
    bank = fill(tiny_model, "The keeper wrote the name of every ship in a ledger. " * 8)
    assert bank.device.type == tiny_model.device.type == "cpu"
    assert bank.search(1, torch.randn(1, 4, 3, tiny_model.head_dim), n_chunks=2).mask_BHTK.all()
    out = tiny_model.generate(ids_of(tiny_model, 8), memory=bank, max_new_tokens=40, min_new_tokens=40)
    assert out.shape == (1, 48)


def test_forward_never_writes_a_bank(tiny_model, bank, tmp_path):
    before = contents(bank, tmp_path / "before")
    tiny_model(ids_of(tiny_model, 100), memory=bank, use_cache=True)
    tiny_model.generate(ids_of(tiny_model, 5), memory=bank, max_new_tokens=40, do_sample=False)
    assert contents(bank, tmp_path / "after") == before
    tiny_model.remember(Document.from_text("more", "The sea."), memory=bank)
    assert contents(bank, tmp_path / "more") != before


def test_a_bank_that_may_not_be_searched_is_as_good_as_empty(tiny_model, bank):
    ids = ids_of(tiny_model, 32)
    without = tiny_model(ids).logits
    assert torch.equal(tiny_model(ids, memory=bank, before=(0, 0)).logits, without)
    assert torch.equal(tiny_model(ids, memory=bank, exclude=[c.id for c in bank.chunks()]).logits, without)
    bank.clear()
    assert torch.equal(tiny_model(ids, memory=bank).logits, without)


def test_padding_never_enters_the_memory_of_a_row(tiny_model):
    ids, padding = ids_of(tiny_model, 88), torch.full((1, 9), 1)
    seen = {}
    for name, row, mask in (
        ("alone", ids, torch.ones(1, 88).long()),
        ("padded", torch.cat([padding, ids], dim=1), torch.cat([torch.zeros(1, 9), torch.ones(1, 88)], dim=1).long()),
    ):
        recorder, cache = TraceRecorder(), tiny_model.new_cache()
        tiny_model(row, attention_mask=mask, cache=cache, use_cache=True, recorder=recorder)
        chunks = np.concatenate([block.chunks_HTC for block in recorder.layers[1]], axis=1)
        seen[name] = (cache.overflow, chunks[:, -40:])
    (alone, found), (padded, found_padded) = seen["alone"], seen["padded"]
    assert padded.valid_BN.all()
    assert padded.n_tokens == alone.n_tokens == 64
    for layer in (1, 3):
        torch.testing.assert_close(padded.keys[layer], alone.keys[layer], atol=1e-5, rtol=0)
    assert np.array_equal(found, found_padded)


def test_a_bank_holds_the_tokens_of_its_documents_and_no_others(tiny_model):
    bank, total = tiny_model.new_bank(dtype=torch.float32), 0
    for name, text in [("short", "The ship."), ("long", STORY)]:
        document = Document.from_text(name, text)
        total += len(document.encode(tiny_model.tokenizer).token_ids)
        tiny_model.remember(document, memory=bank)
        assert bank.n_tokens == total
    for chunk in bank.chunks():
        assert bank.documents[chunk.document].text[chunk.start : chunk.stop]


def test_a_document_is_read_without_what_came_before_it(tiny_model):
    """The backbone's cache is cut between documents: the same text gives the same keys after any other."""
    bank = fill(tiny_model)
    alone = fill(tiny_model, "The ship returned.")
    tiny_model.remember(Document.from_text("second", "The ship returned."), memory=bank)
    q_BHTD = torch.ones(1, 4, 1, 8)
    hidden = [chunk.id for chunk in bank.chunks() if chunk.document == 0]
    found = bank.search(3, q_BHTD, n_chunks=alone.n_chunks, exclude=hidden)
    assert torch.equal(found.keys_BHTKD, alone.search(3, q_BHTD, n_chunks=alone.n_chunks).keys_BHTKD)


def test_generating_without_a_cache_gives_the_same_text(tiny_model, bank):
    ids = ids_of(tiny_model, 20)
    options = {"max_new_tokens": 30, "min_new_tokens": 30, "do_sample": False, "memory": bank}
    cached = tiny_model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    uncached = tiny_model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=False, **options)
    assert torch.equal(cached, uncached)


def test_sampling_several_texts_at_once_follows_the_seed(tiny_model, bank):
    ids, texts = ids_of(tiny_model, 20), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        options = {"max_new_tokens": 20, "min_new_tokens": 20, "do_sample": True, "num_return_sequences": 2}
        texts.append(tiny_model.generate(ids, attention_mask=torch.ones_like(ids), memory=bank, **options))
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[1], texts[2])
    assert not torch.equal(*texts[0])


def test_a_cache_goes_on_where_another_call_ended(tiny_model, bank):
    ids = ids_of(tiny_model, 20)
    options = {"max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False, "memory": bank}
    whole = tiny_model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    cache = tiny_model.new_cache()
    tiny_model(ids[:, :19], cache=cache, use_cache=True, memory=bank)
    mask = torch.ones_like(ids)
    assert torch.equal(tiny_model.generate(ids, attention_mask=mask, cache=cache, **options), whole)


@pytest.mark.parametrize("order", [[1, 0], [0, 0, 1], [1]])
def test_a_reordered_cache_goes_on_as_its_rows_would(tiny_model, order):
    """All that is of a row moves with it: window, positions, and what has left the window."""
    ids = torch.cat([ids_of(tiny_model, 60, seed=1), ids_of(tiny_model, 60, seed=2)])
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    expected = tiny_model(ids, attention_mask=mask).logits[order, 50:]
    cache = tiny_model.new_cache()
    tiny_model(ids[:, :50], attention_mask=mask[:, :50], cache=cache, use_cache=True)
    cache.reorder_cache(torch.tensor(order))
    found = tiny_model(ids[order, 50:], attention_mask=mask[order], cache=cache, use_cache=True).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_sidenet_learns_in_train_mode_and_the_backbone_stays_in_eval(tiny_tokenizer):
    model = LongMemForCausalLM.from_backbone(tiny_smollm3(), memory_layers=[1], window=32, retrieved_tokens=16)
    model.train()
    assert model.sidenet.training
    assert not model.backbone.training
    assert not model.backbone.causal_lm.training


def test_a_capacity_of_nothing_is_refused(tiny_model):
    with pytest.raises(LongMemError, match="capacity is 0"):
        tiny_model.new_bank(capacity=0)


def test_reading_without_a_tokenizer_says_what_is_missing():
    model = LongMemForCausalLM.from_backbone(tiny_smollm3(), memory_layers=[1], window=32, retrieved_tokens=16)
    with pytest.raises(LongMemError, match="tokenizer is None"):
        model.remember(Document.from_text("story", STORY), memory=model.new_bank())


def test_forgetting_takes_a_document_or_chunks_out(tiny_model, bank):
    chunks = [chunk.id for chunk in bank.chunks()]
    tiny_model.forget(bank, chunks=chunks[:2])
    assert [chunk.id for chunk in bank.chunks()] == chunks[2:]
    tiny_model.forget(bank, 0)
    assert bank.is_empty


def test_cached_uncached_and_beam_agree_with_a_bank_and_a_sliding_window(tiny_model, bank):
    ids = ids_of(tiny_model, 97)
    with torch.no_grad():
        at_once = tiny_model(ids, memory=bank).logits
        cache = tiny_model.new_cache()
        options = {"cache": cache, "use_cache": True, "memory": bank}
        steps = [tiny_model(ids[:, t : t + 1], **options).logits for t in range(97)]
    torch.testing.assert_close(torch.cat(steps, dim=1), at_once, atol=1e-4, rtol=0)


def test_beams_score_their_text_as_one_call_does(tiny_model, bank):
    ids = ids_of(tiny_model, 10)
    options = {"max_new_tokens": 70, "min_new_tokens": 70, "num_beams": 3, "do_sample": False, "length_penalty": 0.0}
    out = tiny_model.generate(ids, memory=bank, output_scores=True, return_dict_in_generate=True, **options)
    # The end token is taken out after the logarithm, as generation does it.
    full = tiny_model(out.sequences, memory=bank).logits[0, 9:-1].float().log_softmax(-1)
    total = full.gather(1, out.sequences[0, 10:, None]).sum()
    torch.testing.assert_close(total, out.sequences_scores[0], atol=1e-3, rtol=0)


def test_a_left_padded_row_equals_the_row_alone_over_three_windows(tiny_model, bank):
    ids = ids_of(tiny_model, 12)
    padded = torch.cat([torch.full((1, 6), 1), ids], dim=1)
    mask = torch.cat([torch.zeros(1, 6), torch.ones(1, 12)], dim=1).long()
    both = torch.cat([ids_of(tiny_model, 18, seed=5), padded])
    masks = torch.cat([torch.ones(1, 18).long(), mask])
    options = {"max_new_tokens": 90, "min_new_tokens": 90, "do_sample": False, "memory": bank}
    alone = tiny_model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    together = tiny_model.generate(both, attention_mask=masks, **options)
    assert torch.equal(alone[0, 12:], together[1, 18:])


def test_rows_do_not_see_what_left_the_window_of_other_rows(tiny_model):
    one, other = ids_of(tiny_model, 97, seed=1), ids_of(tiny_model, 97, seed=2)
    alone = tiny_model(one).logits
    together = tiny_model(torch.cat([one, other])).logits
    torch.testing.assert_close(together[:1], alone, atol=1e-4, rtol=0)


def test_generation_goes_on_far_past_the_window():
    model = LongMemForCausalLM.from_backbone(
        tiny_smollm3(window=64), memory_layers=[1, 3], window=64, retrieved_tokens=16, memory_size=128
    ).eval()
    ids = ids_of(model, 10)
    options = {"max_new_tokens": 454, "min_new_tokens": 454, "do_sample": False, "return_dict_in_generate": True}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    cache = out.cache
    assert out.sequences.shape == (1, 464)
    assert cache.live <= 64
    assert cache.overflow.n_tokens == 128  # the rest has left this memory too, oldest first
    assert cache.seen - cache.live == 128 + 4 * cache.overflow.dropped_chunks


def test_fewer_chunks_than_asked_for_are_masked_not_repeated(tiny_model):
    bank = fill(tiny_model, "The ship.")
    recorder = TraceRecorder()
    tiny_model(ids_of(tiny_model, 8), memory=bank, recorder=recorder)
    for blocks in recorder.layers.values():
        chunks = blocks[0].chunks_HTC
        assert ((chunks >= 0).sum(axis=-1) == bank.n_chunks).all()
        assert (blocks[0].weights_HTC[chunks < 0] == 0).all()


@pytest.mark.parametrize("read_overlap", [0, 16])
def test_remember_stores_the_keys_of_the_segments_it_read(tiny_tokenizer, read_overlap):
    model = LongMemForCausalLM.from_backbone(
        tiny_smollm3(), memory_layers=[1], window=32, retrieved_tokens=16, read_overlap=read_overlap
    )
    model.tokenizer = tiny_tokenizer
    bank = fill(model)
    encoded = Document.from_text("story", STORY).encode(tiny_tokenizer)
    ids = encoded.token_ids
    assert bank.n_tokens == len(ids)
    start = 48 if read_overlap else 64  # a place where a segment begins to be kept
    part = ids[start - read_overlap : start - read_overlap + 32]
    expected = model.backbone(part[None]).qkv[1][1][0, :, read_overlap : read_overlap + 4]
    chunk = next(c for c in bank.chunks() if c.token_start == start)
    found = bank.search(1, torch.ones(1, 4, 1, 8), n_chunks=bank.n_chunks)
    for head in (0, 2):  # the first query head of each key-value head
        place = int((found.chunks_BHTC[0, head, 0] == chunk.id).nonzero())
        stored = found.keys_BHTKD[0, head, 0, 4 * place : 4 * place + 4]
        torch.testing.assert_close(stored, expected[head // 2], atol=1e-5, rtol=1e-5)
    first, last = encoded.spans[start], encoded.spans[start + 3]
    assert (chunk.start, chunk.stop) == (int(first[0]), int(last[1]))


def test_reading_reports_progress_and_stops_with_a_usable_bank(tiny_model):
    stop, seen = threading.Event(), []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        stop.set()

    bank = tiny_model.new_bank(dtype=torch.float32)
    tiny_model.remember(Document.from_text("story", STORY), memory=bank, progress=progress, stop=stop)
    assert len(seen) == 1
    assert 0 < bank.n_tokens == seen[0][0] < seen[0][1]
    assert torch.isfinite(tiny_model(ids_of(tiny_model, 8), memory=bank).logits).all()


def test_a_passage_of_a_document_retrieves_only_what_comes_before_it(tiny_model, bank):
    recorder = TraceRecorder()
    tiny_model(ids_of(tiny_model, 8), memory=bank, before=(0, 50), recorder=recorder)
    stops = [bank.chunk(int(c)).token_stop for c in recorder.layers[1][0].chunks_HTC.ravel() if c >= 0]
    assert stops
    assert max(stops) <= 50


def test_tokens_of_the_live_window_are_never_retrieved(tiny_model):
    recorder = TraceRecorder()
    tiny_model(ids_of(tiny_model, 97), recorder=recorder, use_cache=True)
    blocks = recorder.layers[1]
    assert blocks[0].gate_HT.shape[1] == 16  # the first window retrieves nothing; then half a window at a time
    for index, block in enumerate(blocks):
        newest = (-2 - block.chunks_HTC[block.chunks_HTC != -1]).max()
        assert newest < (index + 1) * 4  # four chunks of four tokens leave with each slide


def test_a_bank_of_another_model_is_refused(tiny_model):
    other = LongMemForCausalLM.from_backbone(tiny_smollm3(), memory_layers=[1], window=32, retrieved_tokens=16)
    with pytest.raises(BankMismatchError, match="fingerprint"):
        tiny_model(ids_of(tiny_model, 4), memory=other.new_bank())


def test_a_bank_of_another_chunk_size_is_refused(tiny_model):
    bank = tiny_model.new_bank()
    bank.chunk_size = 8
    with pytest.raises(BankMismatchError, match="chunks of 8 tokens"):
        tiny_model(ids_of(tiny_model, 8), memory=bank)


def test_the_loss_of_the_positions_kept_is_that_of_those_positions(tiny_model):
    ids = ids_of(tiny_model, 20)
    labels = ids.clone()
    labels[:, :-5] = -100
    whole = tiny_model(ids, labels=labels).loss
    torch.testing.assert_close(tiny_model(ids, labels=labels, logits_to_keep=6).loss, whole)


def test_a_saved_model_is_the_same_and_frozen_again(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    loaded = LongMemForCausalLM.from_pretrained(tmp_path, device="cpu")
    ids = ids_of(tiny_model, 40)
    torch.testing.assert_close(loaded(ids).logits, tiny_model(ids).logits)
    assert loaded.fingerprint == tiny_model.fingerprint
    assert loaded.tokenizer.get_vocab() == tiny_model.tokenizer.get_vocab()
    assert not any(p.requires_grad for p in loaded.backbone.parameters())
    assert loaded.to(torch.bfloat16).freeze().fingerprint == tiny_model.fingerprint


def test_a_sidenet_saved_alone_finds_its_backbone_and_refuses_another(tiny_tokenizer, tmp_path):
    tiny_smollm3(len(tiny_tokenizer)).save_pretrained(tmp_path / "backbone")
    tiny_tokenizer.save_pretrained(tmp_path / "backbone")
    model = LongMemForCausalLM.from_backbone(
        tmp_path / "backbone", memory_layers=[1], window=32, retrieved_tokens=16, initialization="paper"
    )
    model.save_pretrained(tmp_path / "sidenet", with_backbone=False)
    loaded = LongMemForCausalLM.from_pretrained(tmp_path / "sidenet", device="cpu")
    assert not any(p.requires_grad for p in loaded.backbone.parameters())
    assert not loaded.training
    ids = ids_of(model, 40)
    torch.testing.assert_close(loaded(ids).logits, model.eval()(ids).logits)
    other = tiny_smollm3(len(tiny_tokenizer))
    torch.nn.init.normal_(other.model.layers[0].mlp.up_proj.weight)
    other.save_pretrained(tmp_path / "backbone")
    with pytest.raises(BankMismatchError, match="was trained on"):
        LongMemForCausalLM.from_pretrained(tmp_path / "sidenet", device="cpu")


def test_a_folder_without_a_model_is_a_clear_error(tmp_path):
    with pytest.raises(LongMemError, match="neither a folder with a LongMem model nor a hub id"):
        LongMemForCausalLM.from_pretrained(tmp_path, device="cpu")


def test_threads_share_one_model_without_meeting(tiny_model, bank):
    prompts = [ids_of(tiny_model, 50, seed=s) for s in range(3)]
    alone = [tiny_model(p, memory=bank).logits for p in prompts]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda p: tiny_model(p, memory=bank).logits, prompts * 4))
    for i, logits in enumerate(together):
        torch.testing.assert_close(logits, alone[i % 3])


def test_only_the_sidenet_gets_gradients(tiny_model):
    model = LongMemForCausalLM.from_backbone(tiny_smollm3(), memory_layers=[1], window=32, retrieved_tokens=16)
    ids = ids_of(model, 20)
    model(ids, labels=ids).loss.backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.sidenet.parameters())
