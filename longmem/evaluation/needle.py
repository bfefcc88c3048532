"""Planted facts: stated once in a long real text, asked for by repeating their beginning.

Names were never used in training. A fact counts as recalled when every token of its answer is the most probable one
(chance: 1 in 10,000 for four digits). The bank holds the whole haystack. Only distractors have the form of another fact
in it: of other facts as many haystacks are made as leave each form once.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from longmem.errors import LongMemError
from longmem.evaluation.results import Items, Options, gains_in_accuracy, settings_of, share
from longmem.evaluation.systems import Memories, Systems
from longmem.trace import TraceRecorder
from longmem.training.data import read_packs
from longmem.training.facts import HELD_OUT_TEMPLATES, TRAINING_TEMPLATES, Fact, make_fact

KINDS = ("known", "held_out", "distractors")
ALLOWED = ("backbone", "empty_bank", "sidenet_only", "longmem", "memtrm")
HEADLINE_LENGTH = 65_536
ALL_LENGTHS = (1_024, 2_048, 8_192, 32_768, 65_536, 262_144, 1_048_576)
SAME_FORM = 9  # a fact and eight distractors of its form
TOKENS_PER_FACT = 40  # a haystack is text for the most part


@dataclass(frozen=True)
class NeedleOptions(Options):
    """documents: the text of the haystacks; lengths: in tokens; depths: bands of place; facts: at each length and kind.

    kinds: "known", templates of training; "held_out", templates never trained on; "distractors", templates of training
    with eight other facts of the same form in the haystack.
    """

    documents: tuple[Path, ...] = ()
    lengths: tuple[int, ...] = (1_024, 2_048, 8_192, 32_768, 65_536)
    depths: int = 10
    facts: int = 48
    kinds: tuple[str, ...] = KINDS
    read_overlap: int | None = None


@dataclass(frozen=True)
class Planted:
    """A fact, where its answer stands in the haystack (tokens first to last), and how deep (0 to 1)."""

    fact: Fact
    first: int
    last: int
    depth: float


def measure_needle(options: NeedleOptions) -> dict:
    """Measure, and return (and write) recall by kind, length and depth, and which heads found the right chunk.

    Raises:
        LongMemError: the documents are too short for the longest haystack, or an unknown kind.
    """
    for kind in options.kinds:
        if kind not in KINDS:
            raise LongMemError(f"--kinds names {kind!r}; it must be of {', '.join(KINDS)}.")
    systems = Systems(options.model, options.systems, read_overlap=options.read_overlap, allowed=ALLOWED)
    lengths = sorted(set(ALL_LENGTHS if options.full else options.lengths))
    facts = options.max_items or options.facts
    settings = settings_of(options, "documents", "depths", "kinds") | {"lengths": lengths, "facts": facts}
    items = Items("needle", options, systems, settings)
    text_ids = read_text(systems, options.documents, lengths[-1])
    keys = {f"{kind} {length}": (kind, length) for length in lengths for kind in options.kinds}
    for key in items.each(keys):
        kind, length = keys[key]
        rng = Random(f"{options.seed}-{kind}-{length}")
        asked, n_haystacks = [], 0
        while len(asked) < facts:
            most = min(facts - len(asked), max(1, length // TOKENS_PER_FACT))
            planted = draw_facts(rng, kind, most)
            chosen = set(rng.sample(range(len(planted)), min(most, len(planted))))
            asked += ask_haystack(systems, text_ids[:length], planted, chosen)
            n_haystacks += 1
        items.add(key, {"kind": kind, "length": length, "haystacks": n_haystacks, "facts": asked})
    return items.finish(**_summary(list(items.found.values()), systems, options.depths))


def draw_facts(rng: Random, kind: str, most: int) -> list[Fact]:
    """The facts of one haystack, with fresh names, in random order: one of each template, at most so many in all.

    Of "distractors" SAME_FORM of each template, in whole groups: so many that `most` can be asked for.
    """
    templates = list(HELD_OUT_TEMPLATES if kind == "held_out" else TRAINING_TEMPLATES)
    rng.shuffle(templates)
    times = SAME_FORM if kind == "distractors" else 1
    forms = [template for template in templates[: -(-most // times)] for _ in range(times)]
    names: set[str] = set()
    facts = []
    while len(facts) < len(forms):
        fact = make_fact(rng, held_out_name=True, template=forms[len(facts)])
        if fact.question not in names:
            names.add(fact.question)
            facts.append(fact)
    rng.shuffle(facts)
    return facts


def read_text(systems: Systems, documents: Sequence[Path], length: int) -> list[int]:
    """Tokens of the documents, one after the other, `length` at least. Errors: LongMemError where there are fewer."""
    ids: list[int] = []
    for _, text in read_packs(documents):
        ids += systems.model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) >= length:
            return ids
    raise LongMemError(f"documents hold {len(ids)} tokens; --lengths asks for {length}.")


def ask_haystack(systems: Systems, text_ids: list[int], facts: list[Fact], asked: Collection[int]) -> list[dict]:
    """Read the text with the facts in it into fresh memories, then ask for those of the numbers `asked`."""
    ids, planted = plant(systems, text_ids, facts)
    memories = systems.new_memories(capacity=len(ids) + systems.model.config.chunk_size)
    systems.read(memories, ids, name="haystack")
    return [ask(systems, memories, place) for number, place in enumerate(planted) if number in asked]


def plant(systems: Systems, text_ids: list[int], facts: list[Fact]) -> tuple[Tensor, list[Planted]]:
    """The haystack's tokens, and where each fact stands in it: evenly spread, the first half a step from the start."""
    tokenizer, step = systems.model.tokenizer, len(text_ids) / len(facts)
    ids: list[int] = []
    planted = []
    for index, fact in enumerate(facts):
        ids += text_ids[int(index * step) : int((index + 0.5) * step)]
        question = tokenizer(f"\n\n{fact.question}", add_special_tokens=False)["input_ids"]
        statement = tokenizer(f"\n\n{fact.statement}\n\n", add_special_tokens=False)["input_ids"]
        place = Planted(fact, len(ids) + len(question), len(ids) + len(statement) - 2, (index + 0.5) / len(facts))
        planted.append(place)
        ids += statement + text_ids[int((index + 0.5) * step) : int((index + 1) * step)]
    return torch.tensor(ids), planted


@torch.no_grad()
def ask(systems: Systems, memories: Memories, place: Planted) -> dict:
    """Which systems find every token of the answer the most probable, and which heads retrieved its first chunk."""
    tokenizer = systems.model.tokenizer
    prompt = tokenizer(f"\n\n{place.fact.question}", add_special_tokens=False)["input_ids"]
    answer = tokenizer(f"\n\n{place.fact.statement}", add_special_tokens=False)["input_ids"][len(prompt) : -1]
    recorder = TraceRecorder()
    logits = systems.logits(torch.tensor([prompt + answer[:-1]]), memories, recorder)
    wanted = torch.tensor(answer)
    recalled = {name: bool((x[0, -len(answer) :].argmax(-1).cpu() == wanted).all()) for name, x in logits.items()}
    right = place.first // systems.model.config.chunk_size
    found = [
        f"{layer}.{head}"
        for layer, blocks in sorted(recorder.layers.items())
        for head, chunks_TC in enumerate(blocks[0].chunks_HTC)
        if (chunks_TC[len(prompt) - 1] == right).any()
    ]
    names = {name: recalled[name] for name in systems.names}
    return {"fact": place.fact.statement, "depth": round(place.depth, 4), "recalled": names, "found_by": found}


def _summary(items: list[dict], systems: Systems, depths: int) -> dict:
    """Recall of the headline (known templates at 65,536 tokens, or the longest), and by kind, length and depth."""
    by_length = {
        kind: {str(item["length"]): _recall(item, systems.names) for item in items if item["kind"] == kind}
        for kind in dict.fromkeys(item["kind"] for item in items)
    }
    head = max(items, key=lambda item: (item["kind"] == "known", item["length"] == HEADLINE_LENGTH, item["length"]))
    found = by_length[head["kind"]][str(head["length"])]
    right = {name: [fact["recalled"][name] for fact in head["facts"]] for name in systems.names}
    return {
        "systems": found,
        "headline": {"kind": head["kind"], "length": head["length"]},
        "gains": gains_in_accuracy(right, found, systems.controls, "recall"),
        "by_length": by_length,
        "by_depth": [_depths(item, systems.names, depths) for item in items],
        "hit_rate": {f"{item['kind']} {item['length']}": _hit_rate(item) for item in items},
    }


def _recall(item: dict, names: Sequence[str]) -> dict:
    return {name: share("recall", [fact["recalled"][name] for fact in item["facts"]]) for name in names}


def _depths(item: dict, names: Sequence[str], depths: int) -> dict:
    """Recall in bands of depth: {"kind", "length", "bands": [{"from", "to", "n", name: recall}]}."""
    bands = defaultdict(list)
    for fact in item["facts"]:
        bands[min(depths - 1, int(fact["depth"] * depths))].append(fact["recalled"])
    rows = [
        {"from": band / depths, "to": (band + 1) / depths, "n": len(facts)}
        | {name: sum(fact[name] for fact in facts) / len(facts) for name in names}
        for band, facts in sorted(bands.items())
    ]
    return {"kind": item["kind"], "length": item["length"], "bands": rows}


def _hit_rate(item: dict) -> dict[str, float]:
    """Share of questions for which each head, "layer.head", retrieved the chunk where the answer begins."""
    heads = sorted({head for fact in item["facts"] for head in fact["found_by"]})
    return {head: sum(head in fact["found_by"] for fact in item["facts"]) / len(item["facts"]) for head in heads}


def table(result: dict) -> list[list[str]]:
    """Rows for people: kind and length, recall of each system with its interval for LongMem."""
    names = list(result["systems"])
    rows = [["facts", "tokens", "n", *names]]
    for kind, lengths in result["by_length"].items():
        for length, found in lengths.items():
            n = next(iter(found.values()))["n"]
            rows.append([kind.replace("_", " "), f"{int(length):,}", str(n), *(_cell(found[name]) for name in names)])
    return rows


def _cell(row: dict) -> str:
    return f"{100 * row['recall']:.1f} % ({100 * row['recall_low']:.0f}-{100 * row['recall_high']:.0f})"
