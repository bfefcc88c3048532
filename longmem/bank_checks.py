"""What a memory bank refuses, in words for people: settings that make no sense, and tensors that do not fit.

Shapes in names: L memory layers, B rows, T tokens, H query heads, G key-value heads, D head dimension.
"""

from collections.abc import Sequence

import numpy as np
import torch

from longmem.bank_files import DTYPES
from longmem.errors import BankMismatchError, LongMemError, MemoryLayerError
from longmem.search import CHUNK_KEYS


def check_settings(
    memory_layers: Sequence[int],
    sizes: dict[str, int],
    capacity: int,
    chunk_key: str,
    dtype: torch.dtype,
) -> None:
    """Settings of a bank; `sizes` are kv_heads, head_dim and chunk_size. Errors: LongMemError."""
    if not memory_layers or len(set(memory_layers)) != len(memory_layers):
        raise MemoryLayerError(f"memory_layers is {list(memory_layers)}; it must name at least one layer, each once.")
    for name, number in sizes.items():
        if number < 1:
            raise LongMemError(f"{name} is {number}; it must be at least 1.")
    check_capacity(capacity, sizes["chunk_size"])
    if chunk_key not in CHUNK_KEYS:
        raise LongMemError(f"chunk_key is {chunk_key!r}; it must be one of {', '.join(CHUNK_KEYS)}.")
    if dtype not in DTYPES.values():
        raise LongMemError(f"dtype is {dtype}; it must be one of torch.{', torch.'.join(DTYPES)}.")


def check_capacity(capacity: int, chunk_size: int) -> None:
    if capacity < chunk_size:
        raise LongMemError(f"capacity is {capacity} tokens; it must be at least one chunk of {chunk_size}.")


def checked_device(device: str | torch.device) -> torch.device:
    """The device with its number, as tensors name it. Errors: LongMemError."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise LongMemError(
            f"device is {device!r}; it must be a device that torch can use here, such as cpu."
        ) from error


def check_queries(queries_BHTD: torch.Tensor, kv_heads: int, head_dim: int) -> None:
    """Errors: BankMismatchError."""
    shape = queries_BHTD.shape
    if len(shape) != 4 or shape[1] % kv_heads or shape[3] != head_dim:
        raise BankMismatchError(
            f"Queries of shape {list(shape)} do not fit this bank; allowed is [rows, heads, tokens, "
            f"{head_dim}] with a multiple of {kv_heads} heads."
        )


def check_pair(keys_LGTD: torch.Tensor, values_LGTD: torch.Tensor, layers: int, kv_heads: int, head_dim: int) -> None:
    """Keys and values that are to be added. Errors: BankMismatchError."""
    for name, given in (("Keys", keys_LGTD), ("Values", values_LGTD)):
        shape = tuple(given.shape)
        expected = len(shape) == 4 and shape == (layers, kv_heads, keys_LGTD.shape[2], head_dim)
        if not expected or not given.is_floating_point():
            raise BankMismatchError(
                f"{name} of shape {list(shape)} and {given.dtype} do not fit this bank; allowed are "
                f"floating-point numbers of shape [{layers}, {kv_heads}, tokens, {head_dim}], as many tokens as keys."
            )


def checked_spans(spans_T2: torch.Tensor | None, n_tokens: int, n_characters: int) -> np.ndarray:
    """Spans of so many tokens as an array; zeros where none are given. n_characters: 0 where the text is unknown.

    Errors: BankMismatchError.
    """
    if spans_T2 is None:
        return np.zeros((n_tokens, 2), dtype=np.int64)
    spans = torch.as_tensor(spans_T2).cpu().numpy()
    limit = n_characters or np.inf
    fits = spans.shape == (n_tokens, 2) and spans.dtype.kind in "iu"
    if not fits or (spans[:, 0] < 0).any() or (spans[:, 1] < spans[:, 0]).any() or (spans[:, 1] > limit).any():
        raise BankMismatchError(
            f"Spans of shape {list(spans.shape)} do not fit {n_tokens} tokens of a text of {n_characters} "
            f"characters; each must be start <= stop inside the text."
        )
    return spans.astype(np.int64)
