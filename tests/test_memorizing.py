"""MemTRM: memory inside a model that is itself being trained."""

import json
import threading

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, SmolLM3Config, SmolLM3ForCausalLM

from longmem.documents import Document
from longmem.errors import BankMismatchError, LongMemError, UnknownFamilyError
from longmem.memorizing import MemorizingTransformer
from longmem.row_memory import RowMemory
from longmem.training.memorize import MemorizingTraining, train_memorizing
from longmem.training.settings import load_settings

WINDOW = 16
LAYERS = [1, 3]
TEXT = "The keeper wrote the name of every ship in a long ledger, and read it again in the winter of 1907. " * 3


def make_backbone() -> SmolLM3ForCausalLM:
    torch.manual_seed(0)
    config = SmolLM3Config(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        no_rope_layers=[1, 0, 1, 0],
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    return SmolLM3ForCausalLM(config).eval()


def make_model(**options) -> MemorizingTransformer:
    settings = {"memory_layers": LAYERS, "window": WINDOW, "retrieved_tokens": 8, "memory_size": 512} | options
    return MemorizingTransformer.from_backbone(make_backbone(), **settings)


def make_ids(seed: int, rows: int = 2) -> torch.Tensor:
    return torch.randint(2, 384, (rows, WINDOW), generator=torch.Generator().manual_seed(seed))


def read_into_rows(model: MemorizingTransformer, ids_BT: torch.Tensor) -> RowMemory:
    memory = RowMemory(LAYERS, capacity=64, chunk_size=4)
    _, keys, values = model(ids_BT)
    memory.add(keys, values, torch.ones_like(ids_BT, dtype=torch.bool))
    return memory


@pytest.fixture
def ids_BT() -> torch.Tensor:
    return make_ids(1)


@torch.no_grad()
def test_with_no_memory_or_an_empty_one_it_is_exactly_the_plain_model(ids_BT):
    model, plain = make_model(), make_backbone()(ids_BT).logits
    forgotten = read_into_rows(model, make_ids(2))
    forgotten.forget_rows(torch.tensor([True, True]))
    empty = RowMemory(LAYERS, capacity=64, chunk_size=4)
    for options in ({}, {"memory": model.new_bank()}, {"row_memory": empty}, {"row_memory": forgotten}):
        assert torch.equal(model(ids_BT, **options).logits_BTV, plain)


@torch.no_grad()
def test_memory_changes_the_logits_only_of_rows_that_have_one(ids_BT):
    model = make_model()
    memory = read_into_rows(model, make_ids(2))
    memory.forget_rows(torch.tensor([False, True]))
    with_memory, without = model(ids_BT, row_memory=memory).logits_BTV, model(ids_BT).logits_BTV
    assert (with_memory[0] - without[0]).abs().max() > 1e-4
    torch.testing.assert_close(with_memory[1], without[1])


@torch.no_grad()
def test_outside_of_a_call_the_model_inside_works_as_before(ids_BT):
    model = make_model()
    model(ids_BT, row_memory=read_into_rows(model, ids_BT))
    assert torch.equal(model.causal_lm(ids_BT).logits, make_backbone()(ids_BT).logits)


@torch.no_grad()
def test_left_padding_changes_nothing_for_the_tokens_after_it(ids_BT):
    model = make_model()
    padded_BT = torch.cat([torch.ones(2, 4, dtype=torch.long), ids_BT[:, :12]], dim=1)
    mask_BT = (torch.arange(16) >= 4).long().expand(2, -1)
    expected = model(ids_BT[:, :12]).logits_BTV
    torch.testing.assert_close(model(padded_BT, mask_BT).logits_BTV[:, 4:], expected, atol=1e-5, rtol=1e-4)


def test_gradients_reach_all_weights_and_the_gates_but_not_what_is_in_memory(ids_BT):
    model = make_model()
    memory = read_into_rows(model, make_ids(2))
    logits_BTV, keys, _ = model(ids_BT, row_memory=memory)
    logits_BTV.square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert not any(k.requires_grad for k in (*memory.keys.values(), *memory.values.values(), *keys.values()))


def test_training_from_the_memory_layer_up_leaves_what_is_below_alone(ids_BT):
    model = make_model(memory_layers=[2], trained_weights="upper")
    model(ids_BT).logits_BTV.square().mean().backward()
    taught = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {name.split(".")[3] for name in taught if ".layers." in name} == {"2", "3"}
    assert "causal_lm.model.norm.weight" in taught
    # The head is tied to the embeddings, which stand at the bottom.
    assert "causal_lm.model.embed_tokens.weight" not in taught


@pytest.mark.parametrize("trained_weights", ["all", "upper"])
def test_after_an_update_the_same_text_has_other_keys_than_those_in_memory(ids_BT, trained_weights):
    model = make_model(trained_weights=trained_weights)
    memory = read_into_rows(model, ids_BT)
    before = {b: memory.keys[b].clone() for b in LAYERS}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model(ids_BT, row_memory=memory).logits_BTV.square().mean().backward()
    optimizer.step()
    fresh = model(ids_BT).keys_BGTD
    for b in LAYERS:
        assert torch.equal(memory.keys[b], before[b])
        assert (fresh[b] - memory.keys[b]).abs().max() > 1e-3


@torch.no_grad()
def test_remember_reads_like_forward_in_consecutive_windows(tiny_tokenizer):
    model = make_model()
    model.tokenizer = tiny_tokenizer
    document = Document.from_text("ledger", TEXT)
    ids_T = document.encode(tiny_tokenizer).token_ids
    bank, expected, seen = model.new_bank(dtype=torch.float32), model.new_bank(dtype=torch.float32), []
    number = model.remember(document, memory=bank, progress=lambda done, total: seen.append((done, total)))
    assert expected.begin_document("ledger") == number
    for start in range(0, len(ids_T), WINDOW):
        _, keys, values = model(ids_T[None, start : start + WINDOW], memory=expected)
        expected.add(number, *(torch.stack([x[b][0] for b in LAYERS]) for x in (keys, values)))
    assert seen[-1] == (len(ids_T), len(ids_T))
    assert len(seen) == -(-len(ids_T) // WINDOW)
    queries = torch.randn(1, 4, 3, 8, generator=torch.Generator().manual_seed(3))
    for b in LAYERS:
        found, wanted = (x.search(b, queries, n_chunks=bank.n_chunks) for x in (bank, expected))
        assert torch.equal(found.keys_BHTKD, wanted.keys_BHTKD)
        assert torch.equal(found.values_BHTKD, wanted.values_BHTKD)
    assert "".join(TEXT[c.start : c.stop] for c in bank.chunks()) == TEXT


@torch.no_grad()
def test_an_overlapping_segment_never_retrieves_the_tokens_it_reads_again(tiny_tokenizer, monkeypatch):
    model = make_model(read_overlap=WINDOW // 2)
    model.tokenizer = tiny_tokenizer
    bank = model.new_bank()
    searches, search = [], bank.search

    def watch(layer, queries_BHTD, **options):
        found = search(layer, queries_BHTD, **options)
        stops = [bank.chunk(c).token_stop for c in found.chunks_BHTC.unique().tolist() if c >= 0]
        searches.append((layer, options["before"], max(stops, default=0)))
        return found

    monkeypatch.setattr(bank, "search", watch)
    number = model.remember(Document.from_text("ledger", TEXT), memory=bank)
    assert bank.documents[number].n_tokens == len(Document.from_text("ledger", TEXT).encode(tiny_tokenizer).token_ids)
    firsts = [before[1] for _, before, _ in searches]
    assert firsts == [WINDOW // 2 * i for i in range(1, len(firsts) + 1)]
    assert all(stop <= first for _, (_, first), stop in searches)
    assert {layer for layer, _, _ in searches} == {
        LAYERS[0]
    }  # what the last layer would find changes nothing in memory


def test_stop_leaves_a_usable_bank(tiny_tokenizer):
    model, stop = make_model(), threading.Event()
    model.tokenizer = tiny_tokenizer
    bank = model.new_bank()
    model.remember(Document.from_text("a", TEXT), memory=bank, progress=lambda *_: stop.set(), stop=stop)
    assert bank.n_tokens == WINDOW
    model(make_ids(1), memory=bank)


@torch.no_grad()
def test_save_and_load_give_the_same_model_and_an_ordinary_one_beside_it(ids_BT, tiny_tokenizer, tmp_path):
    model = make_model(gate_start=0.4, trained_weights="upper", read_overlap=8)
    model.tokenizer = tiny_tokenizer
    for gate in model.gates.values():
        gate.weight_HD.normal_()
    memory = read_into_rows(model, make_ids(2))
    model.save(tmp_path)
    loaded = MemorizingTransformer.load(tmp_path, device="cpu")
    assert torch.equal(loaded(ids_BT, row_memory=memory).logits_BTV, model(ids_BT, row_memory=memory).logits_BTV)
    assert (loaded.config.read_overlap, loaded.trained_weights, loaded.training) == (8, "upper", False)
    assert loaded.tokenizer.get_vocab() == tiny_tokenizer.get_vocab()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(plain(ids_BT).logits, model(ids_BT).logits_BTV)


@torch.no_grad()
def test_a_model_with_learned_positions_has_memory_too(ids_BT):
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_positions=WINDOW, n_embd=32, n_layer=2, n_head=4)).eval()
    plain = gpt2(ids_BT).logits
    model = MemorizingTransformer.from_backbone(gpt2, memory_layers=[1], window=WINDOW, retrieved_tokens=8)
    assert torch.equal(model(ids_BT).logits_BTV, plain)
    memory = RowMemory([1], capacity=64, chunk_size=4)
    _, keys, values = model(make_ids(2))
    memory.add(keys, values, torch.ones_like(ids_BT, dtype=torch.bool))
    assert (model(ids_BT, row_memory=memory).logits_BTV - plain).abs().max() > 1e-4


def test_errors_name_the_option_and_what_is_allowed(ids_BT, tmp_path, tiny_tokenizer):
    model = make_model()
    with pytest.raises(LongMemError, match=r"32 tokens; .* one window of 16"):
        model(torch.cat([ids_BT, ids_BT], dim=1))
    with pytest.raises(BankMismatchError, match=r"needs one it made itself \('memorizing-smollm3-1,3-2x8'\)"):
        model(ids_BT, memory=make_model(memory_layers=[1]).new_bank())
    with pytest.raises(LongMemError, match="tokenizer is None"):
        model.remember(Document.from_text("a", TEXT), memory=model.new_bank())
    with pytest.raises(LongMemError, match="trained_weights is 'some'; it must be one of all, upper"):
        make_model(trained_weights="some")
    with pytest.raises(LongMemError, match="holds no Memorizing Transformer"):
        MemorizingTransformer.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "opt"}))
    with pytest.raises(UnknownFamilyError, match="model_type is 'opt'"):
        MemorizingTransformer.from_backbone(tmp_path, memory_layers=[1])


def test_two_steps_of_training_change_every_layer_and_write_a_model(tiny_tokenizer, tmp_path):
    backbone = tmp_path / "backbone"
    make_backbone().save_pretrained(backbone)
    tiny_tokenizer.save_pretrained(backbone)
    pack = tmp_path / "books.jsonl"
    pack.write_text("\n".join(json.dumps({"title": str(i), "text": TEXT * 8}) for i in range(3)))
    settings = MemorizingTraining(
        backbone=str(backbone),
        output=str(tmp_path / "run"),
        packs=[str(pack)],
        memory_layers=LAYERS,
        window=WINDOW,
        retrieved_tokens=8,
        lanes=2,
        memory_tokens=4 * WINDOW,
        segments=4,
        total_steps=2,
        warmup=1,
        log_every=2,
    )
    folder = train_memorizing(settings)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2]
    assert 0 < rows[0]["loss"] < 20
    # The memory was empty in the first step, and the gates started at 0.27.
    assert 0.05 < rows[0]["gate"] < 0.3
    before, after = make_backbone().state_dict(), AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    model = MemorizingTransformer.load(folder, device="cpu")
    model.remember(Document.from_text("ledger", TEXT), memory=(bank := model.new_bank()))
    assert not bank.is_empty


def test_the_bundled_configuration_fits_the_settings_and_an_unknown_one_is_refused():
    assert load_settings(MemorizingTraining, "cpu", "memorize").trained_weights == "all"
    with pytest.raises(LongMemError, match="unknown settings: source"):
        load_settings(MemorizingTraining, "cpu", "memorize", source="memory")
