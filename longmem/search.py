"""Exact top-k inner-product search over chunks of keys; the only file that imports faiss.

Shapes in names: H any batch axis (key-value heads, or rows x key-value heads), Q queries, N token slots, C chunks,
S token slots per chunk (N = C * S), D head dimension, G groups. A chunk's *slot* is its place 0..C-1 in the keys given.

Backends:
- `torch`: the reference and the default, on any device; everything is added and compared in fp32. For few queries of a
  bfloat16 bank on a CPU whose largest norms are known, a pass in bfloat16 proposes `COARSE_FACTOR` times the chunks
  asked for, which are then scored exactly, and so are all others that rounding could have hidden.
- `torch-coarse`: the same without the second look. Scores are exact, the choice nearly so (recall above 98 %).
- `faiss-cpu`: needs fp32 keys on the CPU. `faiss-gpu`: `faiss.knn_gpu` directly on CUDA tensors, queries and keys of
  one dtype. Neither casts in silence.
- `faiss-ivf`, `faiss-hnsw`, `faiss-sq8`, `faiss-shards`: indexes that a bank keeps, see `longmem.kept_index`.
"""

import functools
import threading

import torch

from longmem.errors import BankMismatchError, LongMemError, RetrievalSizeError, SearchBackendError

CHUNK_KEYS = ("max", "mean")
EXACT = ("torch", "torch-coarse", "faiss-cpu", "faiss-gpu")
INDEXED = ("faiss-ivf", "faiss-hnsw", "faiss-sq8", "faiss-shards")
BACKENDS = (*EXACT, *INDEXED)
COARSE_FACTOR = 4
SCORE_BYTES = 64 * 2**20
CPU_SCORE_BYTES = 8 * 2**20  # what stays in the cache until its largest are picked
NOTHING = float("-inf")

_CPU_BLOCK_TOKENS = 8_192  # 2 MB of fp32 keys: a block stays in the cache while every query reads it
_FEW_QUERIES = 3  # up to here one product with the whole block beats one product per token of the chunk
_FEW_COARSE_QUERIES = 6
_FAISS_GPU_MOST = 2_048  # faiss sorts at most so many results on a GPU
_faiss_gpu_lock = threading.Lock()  # faiss's GPU resources may not be used by two threads at once


@torch.no_grad()
def top_chunks(
    queries_HQD: torch.Tensor,
    keys_HND: torch.Tensor,
    *,
    n_chunks: int,
    chunk_size: int,
    chunk_key: str = "max",
    valid_N: torch.Tensor | None = None,
    allowed_C: torch.Tensor | None = None,
    norms_H: torch.Tensor | None = None,
    backend: str = "torch",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `n_chunks` chunks of largest inner product with each query, best first.

    A chunk scores as its best valid token (`chunk_key="max"`) or by the mean of its valid keys (`"mean"`). Precomputed
    means are searched by passing them as keys with `chunk_size=1`.
    `valid_N` (bool, [N] or [H, N]): False is an empty slot of a short tail chunk, or padding. Without it every slot is
    searched, so that unused ones must hold a copy of a used key of their chunk.
    `allowed_C` (bool, [C] or [H, C]): False is a chunk that may not be retrieved.
    `norms_H` (fp32, [H]): no key of a head is longer; where it is known, few queries are searched faster.

    No gradient flows through a search: what learns from it is the attention over what it found.
    Returns scores_HQC (fp32) and slots_HQC (int64), C = n_chunks; where fewer chunks exist, -inf and -1.
    Raises LongMemError for arguments that do not fit, SearchBackendError where a backend cannot run.
    """
    _check_arguments(queries_HQD, keys_HND, n_chunks, chunk_size, chunk_key)
    if backend in INDEXED:
        raise SearchBackendError(f"backend {backend} is an index that a bank keeps; here it must be one of {EXACT}.")
    check_backend(backend, keys_HND.dtype, keys_HND.device)
    H, N, _ = keys_HND.shape
    C = N // chunk_size
    valid_HN = _mask("valid_N", valid_N, H, N, keys_HND)
    allowed_HC = _mask("allowed_C", allowed_C, H, C, keys_HND)
    if valid_HN is not None:
        some_HC = valid_HN.view(H, C, chunk_size).any(-1)
        allowed_HC = some_HC if allowed_HC is None else some_HC & allowed_HC
    if chunk_size > 1 and chunk_key == "mean":
        keys_HND, chunk_size = _means(keys_HND, valid_HN, chunk_size), 1
    elif chunk_size > 1 and valid_HN is not None:
        keys_HND = _filled(keys_HND, valid_HN, chunk_size)
    if C == 0 or queries_HQD.shape[1] == 0:
        return _padded(*_no_results(queries_HQD), n_chunks)
    search = {"torch": _search_torch, "torch-coarse": _search_coarse}.get(backend, _search_faiss)
    if backend == "torch" and norms_H is not None:
        search = functools.partial(_search_certified, norms_H=norms_H)
    return _padded(*search(queries_HQD, keys_HND, min(n_chunks, C), chunk_size, allowed_HC), n_chunks)


def _check_arguments(queries_HQD, keys_HND, n_chunks: int, chunk_size: int, chunk_key: str) -> None:
    if n_chunks < 1 or chunk_size < 1:
        raise RetrievalSizeError(f"n_chunks is {n_chunks} and chunk_size {chunk_size}; both must be at least 1.")
    if chunk_key not in CHUNK_KEYS:
        raise LongMemError(f"chunk_key is {chunk_key!r}; it must be one of {', '.join(CHUNK_KEYS)}.")
    q, k = tuple(queries_HQD.shape), tuple(keys_HND.shape)
    if len(q) != 3 or len(k) != 3 or q[0] != k[0] or q[2] != k[2] or k[1] % chunk_size:
        raise BankMismatchError(
            f"Queries of shape {list(q)} do not fit keys of shape {list(k)} in chunks of {chunk_size}; allowed are "
            f"[heads, queries, size] and [heads, whole chunks of tokens, size] with the same heads and size."
        )
    if queries_HQD.device != keys_HND.device:
        raise BankMismatchError(
            f"Queries are on {queries_HQD.device}, keys on {keys_HND.device}; they must be together."
        )


def check_backend(backend: str, dtype: torch.dtype, device: torch.device) -> None:
    """SearchBackendError unless `backend` can search keys of this dtype on this device, here."""
    if backend not in BACKENDS:
        raise SearchBackendError(f"backend is {backend!r}; it must be one of {', '.join(BACKENDS)}.")
    if backend == "faiss-cpu" and (dtype != torch.float32 or device.type != "cpu"):
        raise SearchBackendError(
            f"backend faiss-cpu searches float32 keys on the CPU, not {_name(dtype)} on {device}; "
            f"make the bank with dtype=torch.float32, or use backend torch."
        )
    if backend == "faiss-gpu" and device.type != "cuda":
        raise SearchBackendError(f"backend faiss-gpu searches keys on a GPU, not on {device}; use torch.")
    if backend.startswith("faiss"):
        load_faiss(gpu=backend == "faiss-gpu")


def load_faiss(*, gpu: bool = False):
    """The faiss module, imported after torch (the other order can crash); SearchBackendError where it is missing."""
    try:
        import faiss
    except ImportError as error:
        raise SearchBackendError(
            "backend faiss needs the faiss-cpu or faiss-gpu package, which is not installed; use torch."
        ) from error
    if gpu and (not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0):
        raise SearchBackendError("backend faiss-gpu needs the faiss-gpu package and a GPU that it sees; use torch.")
    return faiss


def _mask(name: str, mask: torch.Tensor | None, H: int, length: int, keys: torch.Tensor) -> torch.Tensor | None:
    """The mask as [H, length] on the keys' device, or None where it hides nothing."""
    if mask is None:
        return None
    if mask.dtype != torch.bool or tuple(mask.shape) not in ((length,), (H, length)):
        raise BankMismatchError(
            f"{name} is {_name(mask.dtype)} of shape {list(mask.shape)}; "
            f"it must be bool of shape [{length}] or [{H}, {length}]."
        )
    mask = mask.to(keys.device)
    return None if mask.all() else mask.expand(H, length)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _means(keys_HND: torch.Tensor, valid_HN: torch.Tensor | None, chunk_size: int) -> torch.Tensor:
    """Mean of the valid keys of every chunk, in fp32."""
    keys_HCSD = keys_HND.unflatten(1, (-1, chunk_size)).float()
    if valid_HN is None:
        return keys_HCSD.mean(2)
    valid_HCS1 = valid_HN.view(*keys_HCSD.shape[:3], 1)
    return keys_HCSD.masked_fill(~valid_HCS1, 0).sum(2) / valid_HCS1.sum(2).clamp(min=1)


def _filled(keys_HND: torch.Tensor, valid_HN: torch.Tensor, chunk_size: int) -> torch.Tensor:
    """Keys in which empty slots of a partly used chunk hold its first valid key, which changes no maximum."""
    valid_HCS = valid_HN.view(valid_HN.shape[0], -1, chunk_size)
    if torch.equal(valid_HCS.any(-1), valid_HCS.all(-1)):
        return keys_HND
    own_N = torch.arange(keys_HND.shape[1], device=keys_HND.device)
    first_HC1 = valid_HCS.int().argmax(-1, keepdim=True) + own_N[::chunk_size, None]
    source_HN = torch.where(valid_HCS, own_N.view(1, -1, chunk_size), first_HC1).flatten(1)
    return keys_HND.gather(1, source_HN[:, :, None].expand_as(keys_HND))


def _no_results(queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and slots of no chunk at all: [..., Q, 0]."""
    shape = (*queries.shape[:-1], 0)
    return queries.new_empty(shape, dtype=torch.float32), queries.new_empty(shape, dtype=torch.int64)


def _padded(scores_HQC, slots_HQC, n_chunks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Results widened to `n_chunks`: score -inf and slot -1 wherever there is no chunk."""
    missing = n_chunks - scores_HQC.shape[-1]
    scores_HQC = torch.nn.functional.pad(scores_HQC, (0, missing), value=NOTHING)
    slots_HQC = torch.nn.functional.pad(slots_HQC, (0, missing), value=-1)
    return scores_HQC, slots_HQC.masked_fill(scores_HQC == NOTHING, -1)


def _search_torch(queries_HQD, keys_HND, n: int, chunk_size: int, allowed_HC) -> tuple[torch.Tensor, torch.Tensor]:
    """Every chunk scored in fp32, in blocks of heads and queries whose scores fit in SCORE_BYTES."""
    H, Q, _ = queries_HQD.shape
    C = keys_HND.shape[1] // chunk_size
    scores_HQC = queries_HQD.new_empty(H, Q, n, dtype=torch.float32)
    slots_HQC = queries_HQD.new_empty(H, Q, n, dtype=torch.int64)
    for h, q in _blocks(H, Q, C, chunk_size, keys_HND.device):
        allowed = None if allowed_HC is None else allowed_HC[h]
        block_HQC = _all_scores(queries_HQD[h, q], keys_HND[h], chunk_size, allowed)
        scores_HQC[h, q], slots_HQC[h, q] = _largest(block_HQC, n)
    return scores_HQC, slots_HQC


def _blocks(H: int, Q: int, C: int, chunk_size: int, device: torch.device):
    """Slices of heads and queries. A CPU takes one head at a time, as long as its keys fill the cache."""
    tokens = C * chunk_size
    if device.type == "cpu":
        heads = max(1, min(H, _CPU_BLOCK_TOKENS // tokens))
        queries = max(1, CPU_SCORE_BYTES // (4 * heads * C))
    else:
        heads = H
        queries = max(1, SCORE_BYTES // (4 * heads * tokens))
    for h in range(0, H, heads):
        for q in range(0, Q, queries):
            yield slice(h, h + heads), slice(q, q + queries)


def _all_scores(queries_HQD, keys_HND, chunk_size: int, allowed_HC) -> torch.Tensor:
    """Scores [H, Q, C] of every chunk, -inf where not allowed; keys are raised to fp32 one block at a time."""
    H, Q, _ = queries_HQD.shape
    keys_HCSD = keys_HND.unflatten(1, (-1, chunk_size))
    C = keys_HCSD.shape[1]
    step = C if keys_HND.device.type != "cpu" else max(1, _CPU_BLOCK_TOKENS // (H * chunk_size))
    scores_HQC = queries_HQD.new_empty(H, Q, C, dtype=torch.float32)
    for c in range(0, C, step):
        block_HQC = _block_scores(queries_HQD, keys_HCSD[:, c : c + step])
        if allowed_HC is not None:
            block_HQC.masked_fill_(~allowed_HC[:, None, c : c + step], NOTHING)
        scores_HQC[:, :, c : c + step] = block_HQC
    return scores_HQC


def _block_scores(queries_HQD, keys_HCSD) -> torch.Tensor:
    """Best token of each chunk. With many queries one product per token of the chunk, read where it lies in the keys:
    the maximum of whole matrices is several times cheaper than a reduction over runs of four."""
    S = keys_HCSD.shape[2]
    if S == 1 or queries_HQD.shape[1] <= _FEW_QUERIES or keys_HCSD.device.type != "cpu":
        scores_HQN = _product(queries_HQD, keys_HCSD.flatten(1, 2))
        return scores_HQN if S == 1 else scores_HQN.unflatten(2, (-1, S)).amax(-1)
    queries_HQD, keys_HCSD = queries_HQD.float(), keys_HCSD.float()
    best_HQC = _product(queries_HQD, keys_HCSD[:, :, 0])
    for s in range(1, S):
        torch.maximum(best_HQC, _product(queries_HQD, keys_HCSD[:, :, s]), out=best_HQC)
    return best_HQC


def _product(queries_HQD, keys_HND) -> torch.Tensor:
    """Inner products [H, Q, N] in fp32: nothing is rounded to the precision of the bank."""
    if keys_HND.device.type == "cuda" and queries_HQD.dtype == keys_HND.dtype in (torch.bfloat16, torch.float16):
        return torch.bmm(queries_HQD, keys_HND.mT, out_dtype=torch.float32)
    if len(keys_HND) == 1:
        return torch.mm(queries_HQD[0].float(), keys_HND[0].float().T)[None]  # faster than bmm for few queries
    return torch.bmm(queries_HQD.float(), keys_HND.float().mT)


def _largest(scores_HQC: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`topk`, by way of the n best groups of 16: half of its time on a CPU, and the same scores.

    A group is the 16 scores that lie `width` apart, so that its maximum is one of whole rows; what is left over after
    the last whole row is a candidate in any case.
    """
    C = scores_HQC.shape[-1]
    width = C // 16
    if width < 4 * n or scores_HQC.device.type != "cpu":
        return scores_HQC.topk(n, dim=-1)
    groups_HQn = scores_HQC[..., : 16 * width].unflatten(-1, (16, width)).amax(-2).topk(n, dim=-1, sorted=False).indices
    members_G1 = torch.arange(0, 16 * width, width)[:, None]
    left_over = torch.arange(16 * width, C).expand(*scores_HQC.shape[:2], -1)
    candidates_HQm = torch.cat([(groups_HQn[:, :, None] + members_G1).flatten(2), left_over], dim=-1)
    best, place = scores_HQC.gather(-1, candidates_HQm).topk(n, dim=-1)
    return best, candidates_HQm.gather(-1, place)


def _search_coarse(queries_HQD, keys_HND, n: int, chunk_size: int, allowed_HC) -> tuple[torch.Tensor, torch.Tensor]:
    """Candidates by products rounded to bfloat16, then their exact scores."""
    if not _coarse_gains(queries_HQD, keys_HND, n, chunk_size):
        return _search_torch(queries_HQD, keys_HND, n, chunk_size, allowed_HC)
    best, slots, *_ = _coarse(queries_HQD, keys_HND, n, chunk_size, allowed_HC)
    return best, slots


def _search_certified(
    queries_HQD, keys_HND, n: int, chunk_size: int, allowed_HC, *, norms_H: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, and exact: where a chunk that was no candidate might be better, all that might are scored exactly.

    A product differs from the exact one by what the query lost in rounding times the longest key, and by its own
    rounding: half of the 2^-8 allowed here. 2^-14 is far more than adding in fp32 loses.
    """
    if not _coarse_gains(queries_HQD, keys_HND, n, chunk_size):
        return _search_torch(queries_HQD, keys_HND, n, chunk_size, allowed_HC)
    best, slots, coarse_HQm, coarse_HQC = _coarse(queries_HQD, keys_HND, n, chunk_size, allowed_HC)
    queries_HQD = queries_HQD.float()
    lost_HQ = (queries_HQD - queries_HQD.bfloat16().float()).norm(dim=-1) + queries_HQD.norm(dim=-1) * 2**-14
    lost_HQ1 = (lost_HQ * norms_H[:, None]).unsqueeze(-1)
    reach_HQ = _reach(coarse_HQm[..., -1:], lost_HQ1)[..., 0]
    for h, q in (reach_HQ >= best[..., -1]).nonzero().tolist():
        slots_m = (_reach(coarse_HQC[h, q], lost_HQ1[h, q]) >= best[h, q, -1]).nonzero()[:, 0]
        exact_m = candidate_scores(queries_HQD[h, None, q, None], keys_HND[h, None], chunk_size, slots_m[None, None])
        best[h, q], place = exact_m[0, 0].topk(n)
        slots[h, q] = slots_m[place]
    return best, slots


def _reach(coarse: torch.Tensor, lost: torch.Tensor) -> torch.Tensor:
    """The most that an exact score can be; no number, and so no reason to look, for a chunk that is not allowed."""
    coarse = coarse.float()
    return coarse + coarse.abs() * 2**-8 + lost


def _coarse_gains(queries_HQD, keys_HND, n: int, chunk_size: int) -> bool:
    """Whether a pass in bfloat16 is the faster one: it reads the keys without raising them to fp32, but for many
    queries, or few chunks, the exact pass is as fast."""
    large = keys_HND.shape[1] >= 2 * COARSE_FACTOR * n * chunk_size
    few = queries_HQD.shape[1] <= _FEW_COARSE_QUERIES
    return keys_HND.dtype == torch.bfloat16 and keys_HND.device.type == "cpu" and few and large and chunk_size > 1


def _coarse(queries_HQD, keys_HND, n: int, chunk_size: int, allowed_HC) -> tuple[torch.Tensor, ...]:
    """Exact scores and slots of the best candidates; rounded scores of the candidates, and [H, Q, C] of all chunks."""
    coarse_HQC = _rounded_scores(queries_HQD, keys_HND, chunk_size)
    if allowed_HC is not None:
        coarse_HQC.masked_fill_(~allowed_HC[:, None], NOTHING)
    coarse_HQm, slots_HQm = _largest(coarse_HQC, COARSE_FACTOR * n)
    exact_HQm = candidate_scores(queries_HQD, keys_HND, chunk_size, slots_HQm)
    best, place = exact_HQm.masked_fill_(coarse_HQm == NOTHING, NOTHING).topk(n, dim=-1)
    return best, slots_HQm.gather(-1, place), coarse_HQm, coarse_HQC


def _rounded_scores(queries_HQD, keys_HND, chunk_size: int) -> torch.Tensor:
    """Scores [H, Q, C] from products in bfloat16, added in fp32.

    All tokens of a chunk are one row, multiplied by one column for each of them: matrices with few columns are slow.
    The products of a chunk lie together, and a pool takes their maximum in half the time of a reduction.
    """
    H, Q, D = queries_HQD.shape
    columns_HSDQS = keys_HND.new_zeros(H, chunk_size, D, Q, chunk_size)
    columns_HSDQS.diagonal(dim1=1, dim2=4).copy_(queries_HQD.mT.unsqueeze(-1))
    rows_HCE = keys_HND.unflatten(1, (-1, chunk_size)).flatten(2)
    products_HCE = torch.bmm(rows_HCE, columns_HSDQS.view(H, chunk_size * D, Q * chunk_size))
    best_H1E = torch.nn.functional.max_pool1d(products_HCE.float().flatten(1).unsqueeze(1), chunk_size)
    return best_H1E.view(H, -1, Q).transpose(1, 2).contiguous()


def candidate_scores(queries_HQD, keys_HND, chunk_size: int, slots_HQm) -> torch.Tensor:
    """Exact fp32 scores [H, Q, m] of some chunks of each query."""
    heads_H11 = torch.arange(len(keys_HND))[:, None, None]
    keys_HQmSD = keys_HND.unflatten(1, (-1, chunk_size))[heads_H11, slots_HQm].float()
    scores_HQE1 = torch.matmul(keys_HQmSD.flatten(2, 3), queries_HQD.float().unsqueeze(-1))
    return scores_HQE1.view(*slots_HQm.shape, chunk_size).amax(-1)


def _search_faiss(queries_HQD, keys_HND, n: int, chunk_size: int, allowed_HC) -> tuple[torch.Tensor, torch.Tensor]:
    """One faiss search per head; faiss knows neither heads nor masks, so forbidden chunks are left out of its keys."""
    results = []
    for h, keys_ND in enumerate(keys_HND):
        slots_C = None if allowed_HC is None else allowed_HC[h].nonzero()[:, 0]
        if slots_C is not None:
            keys_ND = keys_ND.unflatten(0, (-1, chunk_size))[slots_C].flatten(0, 1)
        results.append(_padded(*_faiss_head(queries_HQD[h], keys_ND, n, chunk_size, slots_C), n))
    scores, slots = zip(*results, strict=True)
    return torch.stack(scores), torch.stack(slots)


def _faiss_head(queries_QD, keys_ND, n: int, chunk_size: int, slots_C) -> tuple[torch.Tensor, torch.Tensor]:
    """The first n different chunks among the (n - 1) * chunk_size + 1 best tokens, which always hold that many."""
    k = min((n - 1) * chunk_size + 1, len(keys_ND))
    if k == 0:
        return _no_results(queries_QD)
    scores_Qk, tokens_Qk = _faiss_tokens(queries_QD, keys_ND, k)
    chunks_Qk = tokens_Qk // chunk_size
    scores_Qk = scores_Qk.masked_fill(repeated(chunks_Qk), NOTHING)
    best, place = scores_Qk.topk(min(n, k), dim=-1)
    slots = chunks_Qk.gather(-1, place)
    return best, slots if slots_C is None else slots_C[slots]


def repeated(chunks_Qk: torch.Tensor) -> torch.Tensor:
    """Which chunks stood before in their row."""
    order_Qk = chunks_Qk.argsort(dim=-1, stable=True)
    sorted_Qk = chunks_Qk.gather(-1, order_Qk)
    again_Qk = torch.zeros_like(chunks_Qk, dtype=torch.bool)
    return again_Qk.scatter_(-1, order_Qk[..., 1:], sorted_Qk[..., 1:] == sorted_Qk[..., :-1])


def _faiss_tokens(queries_QD, keys_ND, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and indices of the k best tokens; on the GPU the bank's own tensors are searched, nothing is copied."""
    if keys_ND.device.type == "cpu":
        faiss = load_faiss()
        scores, tokens = faiss.knn(
            queries_QD.float().contiguous().numpy(), keys_ND.numpy(), k, metric=faiss.METRIC_INNER_PRODUCT
        )
        return torch.from_numpy(scores), torch.from_numpy(tokens)
    if queries_QD.dtype != keys_ND.dtype:
        raise SearchBackendError(
            f"backend faiss-gpu needs queries and keys of one dtype, not {_name(queries_QD.dtype)} queries and "
            f"{_name(keys_ND.dtype)} keys; make the bank with the model's dtype, or use backend torch."
        )
    if k > _FAISS_GPU_MOST:
        raise SearchBackendError(f"backend faiss-gpu finds at most {_FAISS_GPU_MOST} tokens, not {k}; use torch.")
    faiss = load_faiss(gpu=True)
    with _faiss_gpu_lock, torch.cuda.device(keys_ND.device):
        resources = _faiss_resources(keys_ND.device.index)
        scores, tokens = faiss.knn_gpu(
            resources, queries_QD.contiguous(), keys_ND, k, metric=faiss.METRIC_INNER_PRODUCT
        )
        torch.cuda.current_stream().synchronize()
    return scores, tokens


@functools.cache
def _faiss_resources(device_index: int):
    """faiss's working memory on one device, made once; torch_utils teaches faiss to read torch tensors."""
    import faiss.contrib.torch_utils  # noqa: F401  (imported for what it does to faiss)

    return load_faiss(gpu=True).StandardGpuResources()
