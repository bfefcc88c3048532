"""Benchmarks of the whole model: reading, writing with a full bank, and a long context against full attention."""

from collections.abc import Callable

import torch

from longmem.bench.contenders import PROMPT, FullAttention, WithMemory, why_not_full_attention
from longmem.bench.timing import Goal, Timed, compared, in_turn
from longmem.bench.workbench import Workbench
from longmem.documents import Document, segments
from longmem.errors import LongMemError
from longmem.memory_bank import MemoryBank
from longmem.reading import batches


def read(bench: Workbench) -> dict:
    """A document read into the bank, tokenizing included, against the bare decoder over the same segments."""
    model = bench.model
    document = Document.from_text("read", model.need_tokenizer().decode(bench.tokens(bench.sizes.read)))
    ids_T = document.encode(model.tokenizer).token_ids
    parts = segments(len(ids_T), model.config.window, model.config.read_overlap)
    groups = batches(parts, None, model)

    @torch.no_grad()
    def decode() -> None:
        for group in groups:
            ids_BT = torch.stack([ids_T[part.first : part.end] for part in group])
            model.backbone.decoder(input_ids=ids_BT.to(model.device), use_cache=False)

    def remember() -> None:
        model.remember(document, memory=bench.empty_bank(bench.sizes.full, bench.backend))

    seconds = in_turn(bench.rounds, bench.device, bare_decoder=Timed(decode), read=Timed(remember))
    goal = Goal(least=0.95)
    return {"read_to_bare_decoder": compared(seconds, "bare_decoder", "read", goal, tokens=len(ids_T))}


def generate(bench: Workbench) -> dict:
    """Writing token by token with a full bank against an empty one, and (long) with a long one against a full one.

    The prompt is read before the clock starts.
    """
    banks = {"empty": bench.empty_bank(bench.sizes.full, bench.backend), "full": bench.full_bank(bench.backend)}
    if bench.options.long:
        banks["long"] = bench.long_bank
    new = bench.sizes.new
    seconds = in_turn(bench.rounds, bench.device, **{name: _writing(bench, bank, new) for name, bank in banks.items()})
    goal = Goal(least=0.8 if bench.device.type == "cpu" else 0.95)
    found = {"generate_full_to_empty": compared(seconds, "empty", "full", goal, tokens=new)}
    if bench.options.long:
        found["generate_long_to_full"] = compared(seconds, "full", "long", Goal(least=0.67), tokens=new)
    return found


def _writing(bench: Workbench, bank: MemoryBank, new_tokens: int) -> Timed:
    writer = WithMemory(bench.model, bench.backend)
    writer.bank, writer.prompt_BT = bank, bench.tokens(PROMPT)[None]
    return Timed(lambda: writer.go_on(new_tokens), prepare=writer.begin)


def context(bench: Workbench) -> dict:
    """A long context read, a prompt and what is written after it: LongMem against full attention in transformers.

    Besides the whole, its two parts: reading, and writing with the prompt.
    """
    model = bench.model
    length, new = bench.sizes.context_on(bench.device), bench.sizes.context_new
    if reason := why_not_full_attention(model, length):
        raise LongMemError(f"context needs full attention over {length:,} tokens: {reason}.")
    ids_T = bench.tokens(length)
    systems = {"full_attention": FullAttention(model), "longmem": WithMemory(model, bench.backend)}
    measured: dict[str, Timed] = {}
    for name, system in systems.items():
        measured[f"{name}_reads"] = Timed(_call(system.read, ids_T))
        measured[f"{name}_writes"] = Timed(_call(system.write, new))
    seconds = in_turn(bench.rounds, bench.device, **measured)
    for name in systems:
        parts = zip(seconds[f"{name}_reads"], seconds[f"{name}_writes"], strict=True)
        seconds[name] = [read + write for read, write in parts]
    goal = Goal(least=5 if bench.device.type == "cpu" else 3)
    ratios = {"context": "", "context_reading": "_reads", "context_writing": "_writes"}
    return {
        name: compared(seconds, f"full_attention{part}", f"longmem{part}", goal, context=length, tokens=new)
        for name, part in ratios.items()
    }


def _call(function: Callable, argument: object) -> Callable[[], None]:
    return lambda: function(argument)
