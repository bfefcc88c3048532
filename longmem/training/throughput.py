"""How well a training run uses its device: the arithmetic of one token, and how fast the device multiplies matrices.

Both count a multiplication and an addition as two operations.
"""

import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedModel

CPU_ROWS = 1_024  # enough for a CPU to reach its rate; a GPU gets the tokens of one step
CPU_REPEATS, GPU_REPEATS = 2, 10
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def flops_per_token(model: PreTrainedModel, window: int) -> int:
    """Operations of the matrix products of one token in training: forward, and backward at twice that.

    - Every weight of a linear layer: 2 forward, 2 for the gradient of its input, 2 for its own; the output head is
      such a layer, also where its weights are those of the embedding, which is a look-up and costs nothing.
    - Causal attention over rows of `window` tokens: a token sees (window + 1) / 2 tokens on average, and each costs
      2 for its score and 2 for its value in every dimension of every head, three times as above.

    Norms, softmax, rotation, activations and the optimizer are not counted, nor is what a mask makes superfluous.
    Source: Chowdhery et al. 2022 (PaLM), appendix B, which counts attention without the causal mask.
    """
    config = model.config
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear))
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = config.num_hidden_layers * config.num_attention_heads * head_dim
    return 6 * weights + 6 * attention * (window + 1)


@torch.no_grad()
def matrix_rate(model: nn.Module, tokens: int, device: torch.device, precision: str) -> float:
    """Operations per second at which this device does the forward products of the model's linear layers, alone.

    It is the rate to compare a run with: these shapes and this precision, one product after the other.

    tokens: rows of each product, those of one training step. precision: of the run: "bf16", "fp16" or "no" (fp32).
    """
    dtype = PRECISIONS.get(precision, torch.float32)
    is_cpu = device.type == "cpu"
    rows, repeats = (min(tokens, CPU_ROWS), CPU_REPEATS) if is_cpu else (tokens, GPU_REPEATS)
    shapes = Counter(tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, nn.Linear))
    operations, seconds = 0, 0.0
    for (wide, deep), count in shapes.items():
        inputs = torch.randn(rows, deep, device=device, dtype=dtype)
        weight = torch.randn(wide, deep, device=device, dtype=dtype)
        seconds += count * _seconds(lambda x=inputs, w=weight: nn.functional.linear(x, w), device, repeats)
        operations += count * 2 * rows * wide * deep
    return operations / seconds


def _seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Seconds of one call, the mean of several after a first one that does not count."""
    run()
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    _wait(device)
    return (time.perf_counter() - start) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
