"""Planted facts: stated once in a long real text, asked for by repeating their beginning.

Names were never used in training; the templates are those of training, each used as often as `same_form` says. A fact
counts as recalled when every token of its answer is the most probable one (chance: 1 in 10,000 for four digits).
"""

import json
from collections import defaultdict
from pathlib import Path
from random import Random

import torch
from tqdm import tqdm

from longmem.documents import segments
from longmem.errors import LongMemError
from longmem.evaluation.settings import load_model, memory_settings
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM
from longmem.trace import TraceRecorder
from longmem.training.data import read_packs
from longmem.training.facts import TRAINING_TEMPLATES, Fact, make_fact


def measure_needle(
    model_path: str,
    documents: list[Path],
    *,
    lengths: list[int],
    facts: int = 48,
    same_form: int = 1,
    seed: int = 1,
    read_overlap: int | None = None,
    json_path: Path | None = None,
) -> dict:
    """Measure, print a table, and return (and write) recall by length and depth, and where the right chunk was found.

    Args:
        lengths: tokens of text in memory, one haystack each.
        facts: asked for at each length, over as many haystacks as they need.
        same_form: facts of each template in one haystack; above 1, all but one of them are distractors of its form.
        read_overlap: 0 or half a window; by default the model's.
    """
    model = load_model(model_path, read_overlap)
    text_ids = _text(model, documents, max(lengths))
    items, hits = [], defaultdict(list)
    for length in lengths:
        for number in range(0, facts, len(TRAINING_TEMPLATES) * same_form):
            rng = Random(f"{seed}-{length}-{number}")
            planted = [make_fact(rng, held_out_name=True, template=t) for t in TRAINING_TEMPLATES * same_form]
            rng.shuffle(planted)
            bank, places = _haystack(model, text_ids[:length], planted)
            for index, fact in enumerate(tqdm(planted, desc=f"{length} tokens", leave=False)):
                recalled, found = _ask(model, bank, fact, places[index])
                depth = (index + 0.5) / len(planted)
                items.append({"length": length, "depth": depth, "recalled": recalled, "fact": fact.statement})
                for head, hit in found.items():
                    hits[length, *head].append(hit)
    result = {
        "evaluation": "needle",
        "model": {"fingerprint": model.fingerprint},
        "settings": {
            "documents": [p.name for p in documents],
            "lengths": lengths,
            "facts": facts,
            "same_form": same_form,
            "seed": seed,
        }
        | memory_settings(model),
        "systems": {"longmem": {str(n): _share(i["recalled"] for i in items if i["length"] == n) for n in lengths}},
        "hit_rate": {f"{n} tokens, layer {b}, head {h}": _share(v) for (n, b, h), v in sorted(hits.items())},
        "items": items,
    }
    _print_table(result, lengths)
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1))
    return result


def _text(model: LongMemForCausalLM, documents: list[Path], length: int) -> list[int]:
    ids: list[int] = []
    for _, text in read_packs(documents):
        ids += model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) >= length:
            return ids
    raise LongMemError(f"documents hold {len(ids)} tokens; lengths asks for {length}.")


def _haystack(
    model: LongMemForCausalLM, text_ids: list[int], facts: list[Fact]
) -> tuple[MemoryBank, list[tuple[int, int]]]:
    """Read the text with the facts in it; returns the bank and the token span of each fact's answer."""
    spacing = len(text_ids) / len(facts)
    ids: list[int] = []
    places = []
    for index, fact in enumerate(facts):
        ids += text_ids[int((index) * spacing) : int((index + 0.5) * spacing)]
        question = model.tokenizer(f"\n\n{fact.question}", add_special_tokens=False)["input_ids"]
        statement = model.tokenizer(f"\n\n{fact.statement}\n\n", add_special_tokens=False)["input_ids"]
        places.append((len(ids) + len(question), len(ids) + len(statement) - 2))
        ids += statement + text_ids[int((index + 0.5) * spacing) : int((index + 1) * spacing)]
    bank = model.new_bank(capacity=len(ids) + model.config.chunk_size)
    number = bank.begin_document("haystack")
    for part in segments(len(ids), model.config.window, model.config.read_overlap):
        model.read_segments(torch.tensor(ids), [part], memory=bank, document=number)
    return bank, places


@torch.no_grad()
def _ask(
    model: LongMemForCausalLM, bank: MemoryBank, fact: Fact, place: tuple[int, int]
) -> tuple[bool, dict[tuple[int, int], bool]]:
    """Whether every answer token is the most probable, and which (layer, head) retrieved the first one's chunk."""
    prompt = model.tokenizer(f"\n\n{fact.question}", add_special_tokens=False)["input_ids"]
    answer = model.tokenizer(f"\n\n{fact.statement}", add_special_tokens=False)["input_ids"][len(prompt) : -1]
    ids = torch.tensor([prompt + answer[:-1]], device=model.device)
    recorder = TraceRecorder()
    logits = model(ids, memory=bank, recorder=recorder, logits_to_keep=len(answer)).logits[0]
    recalled = bool((logits.argmax(-1).cpu() == torch.tensor(answer)).all())
    right = place[0] // model.config.chunk_size
    found = {}
    for layer, blocks in recorder.layers.items():
        for head, chunks in enumerate(blocks[0].chunks_HTC[:, 0]):
            found[layer, head] = bool((chunks == right).any())
    return recalled, found


def _share(values) -> float:
    values = list(values)
    return sum(values) / max(1, len(values))


def _print_table(result: dict, lengths: list[int]) -> None:
    print(f"{'tokens':>8} {'recall':>8}   hit rate of the answer's chunk by layer.head")
    for n in lengths:
        hits = [
            f"{key.split('layer ')[1].replace(', head ', '.')} {rate:.2f}"
            for key, rate in result["hit_rate"].items()
            if key.startswith(f"{n} tokens")
        ]
        print(f"{n:>8} {result['systems']['longmem'][str(n)]:>8.3f}   {'  '.join(hits)}")
