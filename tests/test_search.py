"""Search finds the chunks of largest inner product, and every backend finds the same."""

import sys

import pytest
import torch

import longmem.search as search
from longmem.errors import BankMismatchError, LongMemError, RetrievalSizeError, SearchBackendError
from longmem.search import load_faiss, top_chunks

H, Q, C, S, D = 3, 5, 200, 4, 16
NOTHING = float("-inf")


def a_bank(dtype=torch.float32, chunks=C, seed=0):
    generator = torch.Generator().manual_seed(seed)
    queries_HQD = torch.randn(H, Q, D, generator=generator)
    keys_HND = torch.randn(H, chunks * S, D, generator=generator)
    return queries_HQD, keys_HND.to(dtype)


def brute_force(queries_HQD, keys_HND, n, chunk_key="max", valid_HN=None, allowed_HC=None):
    """The definition, one query and one chunk at a time, in float64."""
    scores = torch.full((H, queries_HQD.shape[1], n), NOTHING)
    slots = torch.full((H, queries_HQD.shape[1], n), -1)
    for h in range(H):
        for q, query_D in enumerate(queries_HQD[h].double()):
            found = []
            for c, keys_SD in enumerate(keys_HND[h].double().view(-1, S, D)):
                if valid_HN is not None:
                    keys_SD = keys_SD[valid_HN[h, c * S : (c + 1) * S]]
                if len(keys_SD) and (allowed_HC is None or allowed_HC[h, c]):
                    score = (keys_SD @ query_D).max() if chunk_key == "max" else keys_SD.mean(0) @ query_D
                    found.append((score.item(), c))
            for rank, (score, c) in enumerate(sorted(found, reverse=True)[:n]):
                scores[h, q, rank], slots[h, q, rank] = score, c
    return scores, slots


def tail_mask(seed=1):
    """Chunks whose last tokens are missing, and some that are wholly empty."""
    used_HC = torch.randint(0, S + 1, (H, C), generator=torch.Generator().manual_seed(seed))
    return (torch.arange(S) < used_HC[:, :, None]).flatten(1)


def allowed_mask(seed=2):
    return torch.rand(H, C, generator=torch.Generator().manual_seed(seed)) < 0.3


@pytest.mark.parametrize("backend", ["torch", "torch-coarse", "faiss-cpu"])
@pytest.mark.parametrize("chunk_key", ["max", "mean"])
@pytest.mark.parametrize("valid_HN", [None, tail_mask()], ids=["full", "tails"])
@pytest.mark.parametrize("allowed_HC", [None, allowed_mask()], ids=["all", "some"])
def test_every_backend_finds_what_the_definition_says(backend, chunk_key, valid_HN, allowed_HC):
    queries, keys = a_bank()
    found = top_chunks(
        queries, keys, n_chunks=9, chunk_size=S, chunk_key=chunk_key, valid_N=valid_HN, allowed_C=allowed_HC,
        backend=backend,
    )  # fmt: skip
    scores, slots = brute_force(queries, keys, 9, chunk_key, valid_HN, allowed_HC)
    torch.testing.assert_close(found[0], scores, rtol=1e-5, atol=1e-5)
    assert torch.equal(found[1], slots)


@pytest.mark.parametrize("queries", [1, 3, 4, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_few_and_many_queries_find_the_same_as_the_definition(queries, dtype):
    _, keys = a_bank(dtype)
    queries_HQD = torch.randn(H, queries, D, generator=torch.Generator().manual_seed(3))
    scores, slots = brute_force(queries_HQD, keys, 6)
    found_scores, found_slots = top_chunks(queries_HQD, keys, n_chunks=6, chunk_size=S)
    torch.testing.assert_close(found_scores, scores, rtol=1e-5, atol=1e-5)
    assert torch.equal(found_slots, slots)


@pytest.mark.parametrize("heads", [1, 8])
def test_all_heads_are_searched_by_one_product(monkeypatch, heads):
    """The official code loops over them in Python. (On a CPU, keys that fill the cache are taken head by head.)"""
    calls = []
    product = search._product
    monkeypatch.setattr(search, "_product", lambda *a: calls.append(1) or product(*a))
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(heads, 2, D, generator=generator), torch.randn(heads, 100 * S, D, generator=generator)
    top_chunks(queries, keys, n_chunks=4, chunk_size=S)
    assert len(calls) == 1


def test_blocks_of_keys_and_queries_change_nothing(monkeypatch):
    queries, keys = a_bank()
    whole = top_chunks(queries, keys, n_chunks=7, chunk_size=S, allowed_C=allowed_mask())
    monkeypatch.setattr(search, "_CPU_BLOCK_TOKENS", 12)
    monkeypatch.setattr(search, "CPU_SCORE_BYTES", 4 * C * 2)
    blocks = top_chunks(queries, keys, n_chunks=7, chunk_size=S, allowed_C=allowed_mask())
    torch.testing.assert_close(blocks[0], whole[0])
    assert torch.equal(blocks[1], whole[1])


def test_scores_of_many_queries_are_never_held_at_once(monkeypatch):
    seen = []
    whole = search._all_scores
    monkeypatch.setattr(search, "_all_scores", lambda *given: seen.append(whole(*given)) or seen[-1])
    keys_HND = torch.randn(1, 16_384, 4)
    top_chunks(torch.randn(1, 2_000, 4), keys_HND, n_chunks=1, chunk_size=1)
    assert len(seen) > 1
    assert max(scores.nbytes for scores in seen) <= search.CPU_SCORE_BYTES <= search.SCORE_BYTES


@pytest.mark.parametrize("chunks", [640, 643, 1_000])
def test_picking_by_groups_equals_topk(chunks):
    scores = torch.randn(2, 9, chunks, generator=torch.Generator().manual_seed(4))
    scores[..., ::3] = NOTHING
    best, places = search._largest(scores, 8)
    assert chunks // 16 >= 4 * 8  # else topk itself would be compared with topk
    assert torch.equal(best, scores.topk(8).values)
    assert torch.equal(scores.gather(-1, places), best)


def test_picking_by_groups_finds_a_best_chunk_after_the_last_whole_group():
    scores = torch.zeros(1, 1, 643)
    scores[..., 642] = 1
    assert search._largest(scores, 8)[1][0, 0, 0] == 642


@pytest.mark.parametrize("backend", ["torch", "torch-coarse", "faiss-cpu"])
def test_fewer_chunks_than_asked_for_are_masked_never_repeated(backend):
    queries, keys = a_bank(chunks=3)
    scores, slots = top_chunks(queries, keys, n_chunks=8, chunk_size=S, backend=backend)
    assert scores.shape == slots.shape == (H, Q, 8)
    assert torch.equal(slots[..., :3].sort().values, torch.arange(3).expand(H, Q, 3))
    assert (slots[..., 3:] == -1).all()
    assert (scores[..., 3:] == NOTHING).all()


@pytest.mark.parametrize("backend", ["torch", "torch-coarse", "faiss-cpu"])
def test_heads_may_be_allowed_different_numbers_of_chunks(backend):
    queries, keys = a_bank()
    allowed_HC = torch.zeros(H, C, dtype=torch.bool)
    allowed_HC[1, 7] = allowed_HC[2, 3:30] = True
    _, slots = top_chunks(queries, keys, n_chunks=4, chunk_size=S, allowed_C=allowed_HC, backend=backend)
    assert (slots[0] == -1).all()
    assert (slots[1] == torch.tensor([7, -1, -1, -1])).all()
    assert ((slots[2] >= 3) & (slots[2] < 30)).all()


@pytest.mark.parametrize("backend", ["torch", "faiss-cpu"])
def test_no_chunks_and_no_queries_are_no_error(backend):
    queries, keys = a_bank()
    scores, slots = top_chunks(queries, keys[:, :0], n_chunks=2, chunk_size=S, backend=backend)
    assert (scores == NOTHING).all()
    assert (slots == -1).all()
    assert top_chunks(queries[:, :0], keys, n_chunks=2, chunk_size=S, backend=backend)[1].shape == (H, 0, 2)


def test_one_mask_serves_all_heads():
    queries, keys = a_bank()
    valid_HN, allowed_HC = tail_mask()[:1], allowed_mask()[:1]
    one = top_chunks(queries, keys, n_chunks=5, chunk_size=S, valid_N=valid_HN[0], allowed_C=allowed_HC[0])
    each = top_chunks(
        queries, keys, n_chunks=5, chunk_size=S, valid_N=valid_HN.expand(H, -1), allowed_C=allowed_HC.expand(H, -1)
    )
    assert torch.equal(one[1], each[1])


def test_a_hidden_token_never_wins_however_large():
    queries, keys = a_bank()
    valid_N = torch.ones(C * S, dtype=torch.bool)
    valid_N[41] = False
    keys[:, 41] = 100 * queries[:, 0]
    scores, _ = top_chunks(queries, keys, n_chunks=1, chunk_size=S, valid_N=valid_N)
    assert (scores[:, 0] < 100).all()


def test_search_changes_neither_queries_nor_keys():
    queries, keys = a_bank()
    before = queries.clone(), keys.clone()
    top_chunks(queries, keys, n_chunks=5, chunk_size=S, valid_N=tail_mask(), allowed_C=allowed_mask())
    assert torch.equal(queries, before[0])
    assert torch.equal(keys, before[1])


def test_search_asks_for_no_gradient():
    queries, keys = a_bank()
    for n in (1, Q):
        scores, _ = top_chunks(queries[:, :n].requires_grad_(), keys.requires_grad_(), n_chunks=5, chunk_size=S)
        assert not scores.requires_grad


def test_precomputed_means_are_searched_as_chunks_of_one():
    queries, keys = a_bank()
    means_HCD = keys.view(H, C, S, D).mean(2)
    found = top_chunks(queries, means_HCD, n_chunks=6, chunk_size=1, chunk_key="mean")
    assert torch.equal(found[1], top_chunks(queries, keys, n_chunks=6, chunk_size=S, chunk_key="mean")[1])


def test_a_bfloat16_bank_is_searched_without_rounding_the_query():
    """Two keys that differ by one bfloat16 step, told apart only if products and comparison stay in fp32."""
    keys_HND = torch.ones(1, 2, 2, dtype=torch.bfloat16)
    keys_HND[0, 1, 1] = 1 + 2**-7
    queries_HQD = torch.tensor([[[1_000.0, 2**-6]]])
    scores, slots = top_chunks(queries_HQD, keys_HND, n_chunks=2, chunk_size=1)
    assert slots.tolist() == [[[1, 0]]]
    assert scores[0, 0, 0] > scores[0, 0, 1]


def hard_bank(kind, tokens=8_192, dim=64):
    """Keys as networks make them: clusters, one large common direction, norms with heavy tails, repeated passages."""
    generator = torch.Generator().manual_seed(5)
    normal = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    queries_HQD, keys_HND = normal(2, 6, dim), normal(2, tokens, dim)
    if kind == "clusters":
        centres_HKD = 2 * normal(2, 100, dim)
        keys_HND += centres_HKD[:, torch.randint(100, (tokens,), generator=generator)]
    if kind == "common mean":
        mean_H1D = 5 * normal(2, 1, dim)
        queries_HQD, keys_HND = queries_HQD + mean_H1D / 2, keys_HND + mean_H1D
    if kind == "heavy tails":
        keys_HND *= torch.exp(normal(2, tokens, 1))
    return queries_HQD, keys_HND.bfloat16()


@pytest.mark.parametrize("kind", ["normal", "clusters", "common mean", "heavy tails"])
def test_the_coarse_pass_recalls_98_percent_and_scores_exactly(kind):
    queries, keys = hard_bank(kind)
    scores, slots = top_chunks(queries, keys, n_chunks=16, chunk_size=S)
    coarse_scores, coarse_slots = top_chunks(queries, keys, n_chunks=16, chunk_size=S, backend="torch-coarse")
    recalled = (slots[..., :, None] == coarse_slots[..., None, :]).any(-1).float().mean()
    assert recalled > 0.98
    of_found = (keys.float().view(2, -1, 1, S, 64) * queries[:, None, :, None]).sum(-1).amax(-1).mT
    torch.testing.assert_close(coarse_scores, of_found.gather(-1, coarse_slots), rtol=1e-5, atol=1e-3)
    assert (scores[..., 0] - coarse_scores[..., 0]).abs().max() < 1e-3


def test_the_coarse_pass_is_really_taken(monkeypatch):
    queries, keys = hard_bank("normal")
    monkeypatch.setattr(search, "_search_torch", None)
    top_chunks(queries, keys, n_chunks=16, chunk_size=S, backend="torch-coarse")


def test_the_coarse_pass_obeys_masks():
    queries, keys = hard_bank("normal")
    allowed_C = torch.zeros(keys.shape[1] // S, dtype=torch.bool)
    allowed_C[100:105] = True
    _, slots = top_chunks(queries, keys, n_chunks=8, chunk_size=S, allowed_C=allowed_C, backend="torch-coarse")
    assert torch.equal(slots[..., :5].sort().values, torch.arange(100, 105).expand(2, 6, 5))
    assert (slots[..., 5:] == -1).all()


def test_faiss_agrees_where_many_of_the_best_tokens_share_a_chunk():
    queries, keys = a_bank()
    keys[:, : 10 * S] = queries[:, :1] + 0.001 * keys[:, : 10 * S]  # 40 best tokens in 10 chunks
    exact = top_chunks(queries, keys, n_chunks=16, chunk_size=S)
    found = top_chunks(queries, keys, n_chunks=16, chunk_size=S, backend="faiss-cpu")
    torch.testing.assert_close(found[0], exact[0], rtol=1e-5, atol=1e-5)
    assert all(len(set(row.tolist())) == 16 for row in found[1].flatten(0, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_faiss_on_the_cpu_refuses_to_cast_in_silence(dtype):
    queries, keys = a_bank(dtype)
    with pytest.raises(SearchBackendError, match="float32"):
        top_chunks(queries, keys, n_chunks=1, chunk_size=S, backend="faiss-cpu")


def test_faiss_gpu_without_a_gpu_says_so():
    with pytest.raises(SearchBackendError, match="GPU, not on cpu"):
        top_chunks(*a_bank(), n_chunks=1, chunk_size=S, backend="faiss-gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_loading_faiss_for_a_gpu_that_is_missing_says_so():
    with pytest.raises(SearchBackendError, match="GPU"):
        load_faiss(gpu=True)


def test_missing_faiss_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(SearchBackendError, match="not installed"):
        top_chunks(*a_bank(), n_chunks=1, chunk_size=S, backend="faiss-cpu")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n_chunks": 0}, RetrievalSizeError, "n_chunks is 0"),
        ({"chunk_size": 0}, RetrievalSizeError, "chunk_size 0"),
        ({"chunk_size": 3}, BankMismatchError, "chunks of 3"),
        ({"chunk_key": "median"}, LongMemError, "'median'.*max, mean"),
        ({"backend": "annoy"}, SearchBackendError, "'annoy'.*torch"),
        ({"valid_N": torch.ones(7, dtype=torch.bool)}, BankMismatchError, r"valid_N.*\[800\]"),
        ({"allowed_C": torch.ones(C)}, BankMismatchError, "allowed_C.*bool"),
    ],
)
def test_bad_options_are_named(options, error, words):
    queries, keys = a_bank()
    with pytest.raises(error, match=words):
        top_chunks(queries, keys, **({"n_chunks": 1, "chunk_size": S} | options))


def test_queries_of_another_shape_are_refused():
    queries, keys = a_bank()
    with pytest.raises(BankMismatchError, match="do not fit"):
        top_chunks(queries[:2], keys, n_chunks=1, chunk_size=S)
    with pytest.raises(BankMismatchError, match="do not fit"):
        top_chunks(queries[..., :8], keys, n_chunks=1, chunk_size=S)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["torch", "faiss-gpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gpu_agrees_with_the_cpu(backend, dtype):
    queries, keys = a_bank(dtype)
    queries = queries.to(dtype)
    expected, _ = top_chunks(queries, keys, n_chunks=9, chunk_size=S, allowed_C=allowed_mask())
    found, _ = top_chunks(
        queries.cuda(), keys.cuda(), n_chunks=9, chunk_size=S, allowed_C=allowed_mask(), backend=backend
    )
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)


# Known norms: a rounded pass that knows what it might have missed -----------------------------------------------------


def bfloat16_bank(seed: int = 0, tokens: int = 4_096) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys [2, tokens, 16] as a bank keeps them, and the largest norm of each head."""
    keys_HND = torch.randn(2, tokens, 16, generator=torch.Generator().manual_seed(seed)).bfloat16()
    return keys_HND, keys_HND.float().norm(dim=-1).amax(1)


@pytest.mark.parametrize("n_queries", [1, 3, 6, 7])
@pytest.mark.parametrize("share", [None, 0.5, 0.002])
def test_a_search_that_knows_the_norms_finds_what_the_exact_one_finds(n_queries, share):
    keys_HND, norms_H = bfloat16_bank()
    generator = torch.Generator().manual_seed(1)
    queries_HQD = torch.randn(2, n_queries, 16, generator=generator)
    allowed = None if share is None else torch.rand(1_024, generator=generator) < share
    options = {"n_chunks": 8, "chunk_size": 4, "allowed_C": allowed}
    exact, exact_slots = top_chunks(queries_HQD, keys_HND, **options)
    scores, slots = top_chunks(queries_HQD, keys_HND, **options, norms_H=norms_H)
    torch.testing.assert_close(scores, exact)
    assert torch.equal(slots, exact_slots)


def test_chunks_that_rounding_could_hide_are_scored_exactly_too():
    """All keys share a large part, so that rounded scores are all alike; one head only."""
    keys_HND, _ = bfloat16_bank()
    keys_HND[1, :, 0] = 200.0
    keys_HND[1, :, 1:] *= 0.1
    queries_HQD = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(2))
    queries_HQD[1, 0, 0] = 3.0
    norms_H = keys_HND.float().norm(dim=-1).amax(1)
    options = {"n_chunks": 8, "chunk_size": 4}
    exact, exact_slots = top_chunks(queries_HQD, keys_HND, **options)
    coarse, _ = top_chunks(queries_HQD, keys_HND, **options, backend="torch-coarse")
    assert (coarse[1] < exact[1] - 1e-3).any()  # rounding does hide some here
    scores, slots = top_chunks(queries_HQD, keys_HND, **options, norms_H=norms_H)
    torch.testing.assert_close(scores, exact)
    assert torch.equal(slots[1], exact_slots[1])
