"""Speed, as ratios measured in turn in one run: reading against the bare backbone, generation with a full and an empty
bank.

Times are wall clock; every pair is measured A B A B and the medians are compared.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from longmem.documents import Document
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM


def measure_efficiency(
    model_path: str,
    document: Path,
    *,
    read_tokens: int = 16_384,
    new_tokens: int = 64,
    rounds: int = 5,
    backend: str = "torch",
    json_path: Path | None = None,
) -> dict:
    """Measure, print a table, and return (and write) medians and ratios.

    Args:
        document: text to read; repeated until it holds `read_tokens` tokens.
        read_tokens: tokens read in each round.
        new_tokens: tokens generated in each round; the full bank holds `memory_size` tokens.
        backend: of the search, see `longmem.search`.
    """
    model = LongMemForCausalLM.from_pretrained(model_path)
    text = Document.from_file(document).text
    ids = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    ids = torch.tensor((ids * (1 + read_tokens // len(ids)))[:read_tokens])
    result = {
        "evaluation": "efficiency",
        "model": {"fingerprint": model.fingerprint},
        "settings": {
            "device": str(model.device),
            "dtype": str(model.dtype),
            "threads": torch.get_num_threads(),
            "read_tokens": read_tokens,
            "new_tokens": new_tokens,
            "rounds": rounds,
            "backend": backend,
        },
        "reading": _reading(model, model.tokenizer.decode(ids), ids, rounds, backend),
        "generation": _generation(model, ids[:64], new_tokens, rounds, backend),
    }
    _print_table(result)
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1))
    return result


def _in_turn(rounds: int, **measured: Callable[[], None]) -> dict[str, float]:
    """Median seconds of each, measured one after the other in every round after a first one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for index in range(rounds + 1):
        for name, run in measured.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if index:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _reading(model: LongMemForCausalLM, text: str, ids: Tensor, rounds: int, backend: str) -> dict:
    document = Document.from_text("read", text)
    window = model.config.window
    segments = ids[: len(ids) // window * window].view(-1, window)

    def read() -> None:
        model.remember(document, memory=model.new_bank(backend=backend))

    @torch.no_grad()
    def bare(module: torch.nn.Module) -> None:
        for pair in segments.split(2):
            module(input_ids=pair.to(model.device), use_cache=False)

    seconds = _in_turn(
        rounds,
        read=read,
        decoder=lambda: bare(model.backbone.decoder),
        with_head=lambda: bare(model.backbone.causal_lm),
    )
    return {
        "tokens_per_second": len(ids) / seconds["read"],
        "ratio_to_decoder": seconds["decoder"] / seconds["read"],
        "ratio_to_backbone_with_head": seconds["with_head"] / seconds["read"],
    }


def _generation(model: LongMemForCausalLM, prompt: Tensor, new_tokens: int, rounds: int, backend: str) -> dict:
    banks = {"empty": model.new_bank(backend=backend), "full": _full_bank(model, backend)}
    prompt_BT = prompt[None].to(model.device)

    def generate(bank: MemoryBank) -> None:
        model.generate(prompt_BT, memory=bank, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False)

    seconds = _in_turn(rounds, **{name: (lambda bank=bank: generate(bank)) for name, bank in banks.items()})
    return {
        "bank_tokens": banks["full"].n_tokens,
        "tokens_per_second_empty": new_tokens / seconds["empty"],
        "tokens_per_second_full": new_tokens / seconds["full"],
        "ratio_full_to_empty": seconds["empty"] / seconds["full"],
    }


def _full_bank(model: LongMemForCausalLM, backend: str) -> MemoryBank:
    """A bank filled with keys and values of the model's own reading of random tokens."""
    bank = model.new_bank(backend=backend)
    number = bank.begin_document("random tokens")
    generator = torch.Generator().manual_seed(0)
    while bank.n_tokens < bank.capacity:
        ids = torch.randint(
            8, model.backbone.causal_lm.config.vocab_size, (1, model.config.window), generator=generator
        )
        states = model.backbone(ids.to(model.device))
        keys, values = (torch.stack([states.qkv[b][i][0] for b in model.config.memory_layers]) for i in (1, 2))
        bank.add(number, keys, values)
    return bank


def _print_table(result: dict) -> None:
    settings, reading, generation = result["settings"], result["reading"], result["generation"]
    print(f"device {settings['device']}, {settings['dtype']}, {settings['threads']} threads")
    print(f"reading      {reading['tokens_per_second']:>10.0f} tokens/s")
    print(f"  against the bare decoder          {reading['ratio_to_decoder']:>6.2f}")
    print(f"  against the backbone with head    {reading['ratio_to_backbone_with_head']:>6.2f}")
    print(f"generation   {generation['tokens_per_second_empty']:>10.1f} tokens/s, empty bank")
    print(f"             {generation['tokens_per_second_full']:>10.1f} tokens/s, {generation['bank_tokens']} tokens")
    print(f"  full against empty                {generation['ratio_full_to_empty']:>6.2f}")
