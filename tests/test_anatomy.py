"""What the anatomy of a pass says is what the model does, in every family."""

import numpy as np
import pytest
import torch

from longmem import score
from longmem.anatomy import dissect, every_score, shape_of, stored_states
from longmem.documents import Document
from longmem.errors import BankMismatchError, LongMemError
from tests.conftest import CORPUS
from tests.test_backbone import CONFIGS, make_longmem

TEXT = "The lighthouse keeper wrote the name"


@pytest.fixture(scope="module")
def bank(tiny_model):
    bank = tiny_model.new_bank()
    tiny_model.remember(Document.from_text("story", " ".join(CORPUS * 3)), memory=bank)
    return bank


@pytest.fixture(scope="module")
def ids(tiny_model) -> list[int]:
    return tiny_model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]


@pytest.fixture(scope="module")
def anatomy(tiny_model, bank, ids):
    return dissect(tiny_model, ids, memory=bank)


@pytest.fixture(scope="module", params=CONFIGS)
def other(request):
    """A model of another family with something in memory, some tokens, and their anatomy."""
    model = make_longmem(request.param)
    bank = model.new_bank(dtype=torch.float32)
    document = bank.begin_document("numbers")
    tokens = torch.randint(2, 128, (30,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = model.backbone(tokens[None])
    bank.add(document, *(torch.stack([states.qkv[b][i][0] for b in model.config.memory_layers]) for i in (1, 2)))
    ids = tokens[5:15].tolist()
    return model, bank, ids, dissect(model, ids, memory=bank)


def test_the_last_state_gives_the_models_logits(other):
    model, bank, ids, anatomy = other
    with torch.no_grad():
        expected = model(torch.tensor([ids]), memory=bank).logits[0]
        found = model.backbone.head(torch.from_numpy(anatomy.side_TE))
    torch.testing.assert_close(found, expected)


def test_what_is_fused_is_what_the_output_projection_gets(other):
    """Also with grouped queries: local attention and gate are of query heads, keys and values of key-value heads."""
    model, bank, ids, anatomy = other
    seen = {}
    for layer in model.config.memory_layers:
        attention = model.backbone.attention(model.sidenet.layers[model.config.side_layer(layer)])
        projection = attention.get_submodule(model.backbone.family.output)
        # Registered after the model's own hook, so that it sees what that one returned.
        projection.register_forward_pre_hook(lambda _, inputs, layer=layer: seen.update({layer: inputs[0]}))
    with torch.no_grad():
        model(torch.tensor([ids]), memory=bank)
    for layer, found in anatomy.memory.items():
        fused_TE = torch.from_numpy(found.fused_HTD).transpose(0, 1).flatten(1)
        torch.testing.assert_close(fused_TE, seen[layer][0], rtol=1e-4, atol=1e-5)
        assert found.keys_GTD.shape == (model.kv_heads, len(ids), model.head_dim)
        assert found.queries_HTD.shape == (model.backbone.query_heads, len(ids), model.head_dim)


def test_keys_and_values_are_what_memory_keeps(tiny_model, anatomy, ids):
    bank = tiny_model.new_bank(dtype=torch.float32)
    tiny_model.remember(Document.from_text("same", TEXT), memory=bank)
    for layer, found in anatomy.memory.items():
        queries_BHTD = torch.from_numpy(found.queries_HTD)[None]
        retrieval = bank.search(layer, queries_BHTD, n_chunks=bank.n_chunks)
        stored = {tuple(key.tolist()) for key in retrieval.keys_BHTKD[0, 0, 0][retrieval.mask_BHTK[0, 0, 0]]}
        assert stored == {tuple(key.tolist()) for key in found.keys_GTD[0]}


def test_gates_weights_and_scores_are_those_of_a_trace(tiny_model, bank, anatomy, ids):
    trace = score(tiny_model, TEXT, memory=bank)
    for layer, seen in trace.layers.items():
        found = anatomy.memory[layer]
        steps = seen.gate_HT.shape[1]
        np.testing.assert_allclose(found.gate_HT[:, :steps], seen.gate_HT, rtol=1e-5)
        np.testing.assert_allclose(found.scores_HTC[:, :steps], seen.scores_HTC, rtol=1e-4)
        np.testing.assert_array_equal(found.chunks_HTC[:, :steps], seen.chunks_HTC)
        weights = found.weights_HTC * found.gate_HT[..., None]
        np.testing.assert_allclose(weights[:, :steps], seen.weights_HTC, rtol=1e-4, atol=1e-6)


def test_the_likeliest_tokens_are_those_of_each_system(tiny_model, bank, anatomy, ids):
    ids_BT = torch.tensor([ids])
    with torch.no_grad():
        states = tiny_model.backbone(ids_BT)
        logits = {
            "backbone": tiny_model.backbone.logits(states),
            "empty_bank": tiny_model(ids_BT).logits,
            "longmem": tiny_model(ids_BT, memory=bank).logits,
        }
    for name, expected in logits.items():
        best = expected[0].softmax(-1).topk(3)
        np.testing.assert_array_equal(anatomy.likeliest[name].token_ids_TK, best.indices.numpy())
        np.testing.assert_allclose(anatomy.likeliest[name].probabilities_TK, best.values.numpy(), rtol=1e-4)


def test_changes_and_residuals_add_up_to_the_last_state(tiny_model, bank, ids):
    """Without the SideNet's own changes the sum of the residuals is what the backbone says."""
    with torch.no_grad():
        states = tiny_model.backbone(torch.tensor([ids]))
        total = states.hidden[0].float()
        for index in range(len(tiny_model.sidenet.layers)):
            total = total + tiny_model.sidenet.step(index, states.hidden[0].float(), states)[1]
    torch.testing.assert_close(total, states.hidden[4].float())
    lengths = dissect(tiny_model, ids, memory=bank).side[0].residual_T
    torch.testing.assert_close(torch.from_numpy(lengths), (states.hidden[2] - states.hidden[0])[0].norm(dim=-1))


def test_every_score_is_that_of_the_search(tiny_model, bank, anatomy):
    found = anatomy.memory[3]
    scores_HC, chunks_HC = every_score(bank, 3, found.queries_HTD[:, -1])
    assert scores_HC.shape == chunks_HC.shape == (4, bank.n_chunks)
    assert (np.diff(scores_HC) <= 0).all()
    assert sorted(chunks_HC[0].tolist()) == [chunk.id for chunk in bank.chunks()]
    np.testing.assert_allclose(scores_HC[:, :4], found.scores_HTC[:, -1], rtol=1e-5)


def test_stored_states_are_those_that_were_added(tiny_model):
    bank = tiny_model.new_bank()
    document = bank.begin_document("numbers")
    keys, values = torch.randn(2, 2, 2, 12, 8).to(bank.dtype)
    bank.add(document, keys, values)
    for index, layer in enumerate(bank.memory_layers):
        for found, added in zip(stored_states(bank, layer), (keys, values), strict=True):
            assert torch.equal(found.flatten(1), added[index].flatten(1))


def test_excluded_chunks_are_not_retrieved(tiny_model, bank, anatomy, ids):
    best = int(anatomy.memory[1].chunks_HTC[0, -1, 0])
    found = dissect(tiny_model, ids, memory=bank, exclude=[best])
    assert not any((layer.chunks_HTC == best).any() for layer in found.memory.values())


def test_nothing_is_kept_on_the_modules(tiny_model, bank, ids):
    before = {name: set(vars(module)) for name, module in tiny_model.named_modules()}
    dissect(tiny_model, ids, memory=bank)
    assert before == {name: set(vars(module)) for name, module in tiny_model.named_modules()}


@pytest.mark.parametrize("family", CONFIGS)
def test_the_shape_is_that_of_the_model(family):
    model = make_longmem(family)
    shape = shape_of(model)
    grouped = family not in ("gpt2", "gpt_neox", "bloom")
    assert (shape.family, shape.layers, shape.side_layers, shape.hidden_size, shape.vocabulary) == (
        family,
        4,
        2,
        32,
        128,
    )
    assert (shape.query_heads, shape.kv_heads, shape.head_dim) == (4, 2 if grouped else 4, model.head_dim)
    assert shape.memory_of == {0: 1, 1: 3}
    assert shape.frozen_parameters + shape.trained_parameters == sum(p.numel() for p in model.parameters())
    assert shape.trained_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert shape.retrieved_chunks == 4
    states = model.backbone(torch.tensor([[2, 3, 4]]))
    kept = sum(states.qkv[b][i][0, :, 0].numel() for b in shape.memory_layers for i in (1, 2))
    assert shape.numbers_per_token == kept
    head, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert shape.shares_embeddings == (head.data_ptr() == embeddings.data_ptr())


def test_errors_name_what_is_wrong(tiny_model, bank, ids):
    with pytest.raises(LongMemError, match="token_ids are 33"):
        dissect(tiny_model, [2] * 33, memory=bank)
    with pytest.raises(LongMemError, match="memory is empty"):
        dissect(tiny_model, ids, memory=tiny_model.new_bank())
    bank_of_another = make_longmem("llama").new_bank()
    with pytest.raises(BankMismatchError):
        dissect(tiny_model, ids, memory=bank_of_another)
