"""Short trainings of the SideNet that differ in one setting, measured on held-out text: which setting is better.

A TOML file names the settings that all share, and the variants: `[variants.NAME]` with what differs. Each variant is
trained from the same seed on the same text, and measured by perplexity and by its training metrics.

`measure_retrieval` compares without training: one model with other settings of retrieval than it was trained with.
"""

import copy
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

from longmem.backbone import copy_of
from longmem.errors import TrainingDataError
from longmem.evaluation.perplexity import PerplexityOptions, measure_perplexity
from longmem.evaluation.results import Items, Options, always_compares, settings_of
from longmem.evaluation.systems import Systems
from longmem.model import LongMemForCausalLM
from longmem.training.adapt import SideNetTraining, adapt
from longmem.training.run import prepare_folder
from longmem.training.settings import CONFIGS

COMPARED = ("backbone", "empty_bank", "longmem")
LAST = 3  # log lines of training whose mean tells how far recall has come


@dataclass(frozen=True)
class ComparisonOptions(Options):
    """config: a .toml file, or one of the package; output: folder for the runs; packs: training text.

    documents: held-out text, at most `max_items`; max_tokens: of each (with `full` all). `model` is that of the
    backbone. `seed` is also that of every training, unless the file names one.
    """

    config: str = "cpu"
    output: Path = Path("runs/comparison")
    packs: tuple[str, ...] = ()
    documents: tuple[Path, ...] = ()
    max_tokens: int = 6_144


def measure_comparison(options: ComparisonOptions) -> dict:
    """Train what has not been trained, measure, and return (and write) one item per variant.

    Raises:
        TrainingDataError: no such file, no variants in it, an unknown setting, or a variant in `output` that was
            trained with others.
        LongMemError: systems that it does not compare.
    """
    always_compares(options, "comparison", COMPARED)
    shared, variants = read_variants(options.config)
    settings = settings_of(options, "config", "documents") | {"max_tokens": _most(options), "shared": shared}
    items = Items("comparison", options, Systems(options.model, ("longmem",)), settings)
    for name in items.each(variants):
        items.add(name, measure_variant(name, shared, variants[name], options))
    return items.finish({}, backbone_fingerprint=items.systems.model.fingerprint)


def read_variants(config: str) -> tuple[dict, dict[str, dict]]:
    """Shared settings, and by name what differs. Errors: TrainingDataError."""
    path = Path(config) if config.endswith(".toml") else CONFIGS / f"comparison-{config}.toml"
    if not path.is_file():
        raise TrainingDataError(f"--config is {config!r}; there is no {path.name}.")
    shared = tomllib.loads(path.read_text())
    variants = shared.pop("variants", {})
    if not variants:
        raise TrainingDataError(f"{path.name} names no variants; add [variants.NAME] with what differs.")
    for name, values in {"the shared part": shared, **variants}.items():
        unknown = sorted(set(values) - set(SideNetTraining.__dataclass_fields__))
        if unknown:
            raise TrainingDataError(f"{path.name} has unknown settings in {name}: {', '.join(unknown)}.")
    return shared, variants


def measure_variant(name: str, shared: dict, changes: dict, options: ComparisonOptions) -> dict:
    """One variant: {"name", "changes", perplexities, recall and gate at the end of training}; trained if need be."""
    folder = options.output / name
    own = {"backbone": options.model, "packs": list(options.packs), "output": str(folder), "resume": True}
    training = SideNetTraining(**{"seed": options.seed} | shared | changes | own)
    if (folder / "model" / "config.json").is_file():
        prepare_folder(folder, resume=True, settings=training)
    else:
        adapt(training)
    measured = measure_perplexity(_perplexity(str(folder / "model"), options, score_every=1))
    perplexity = {system: row["perplexity"] for system, row in measured["systems"].items()}
    return {
        "name": name,
        "changes": changes,
        "perplexity": perplexity,
        "change": measured["gains"]["backbone"],
        **_end_of_training(folder / "metrics.jsonl"),
    }


def _most(options: "ComparisonOptions | RetrievalOptions") -> int | None:
    return None if options.full else options.max_tokens


def _perplexity(model: str | LongMemForCausalLM, options: "ComparisonOptions | RetrievalOptions", **own):
    """How each variant is measured, on the same documents."""
    same = {"documents": options.documents, "max_items": options.max_items, "seed": options.seed}
    return PerplexityOptions(model, systems=COMPARED, max_tokens=_most(options), **same, **own)


def _end_of_training(path: Path) -> dict:
    """Means over the last log lines: share of asked tokens that were right, and of memory in the fusion."""
    rows = [json.loads(line) for line in path.read_text().splitlines()][-LAST:]
    return {key: sum(row[key] for row in rows) / len(rows) for key in ("recall", "gate", "tokens_per_second")}


@dataclass(frozen=True)
class RetrievalOptions(Options):
    """documents: held-out text, at most `max_items`; max_tokens: of each (with `full` all).

    score_every: score every n-th window (with `full` all), read all.
    """

    documents: tuple[Path, ...] = ()
    max_tokens: int = 6_144
    score_every: int = 2


def measure_retrieval(options: RetrievalOptions) -> dict:
    """Measure one model with several settings of retrieval, and return (and write) one item for each.

    Nothing is trained, so there is no recall in training; "documents" is how many the intervals go over.
    """
    always_compares(options, "retrieval", COMPARED)
    systems = Systems(options.model, COMPARED)
    variants = retrieval_variants(systems.model)
    every = 1 if options.full else options.score_every
    settings = settings_of(options, "documents")
    settings |= {"max_tokens": _most(options), "score_every": every, "trained": False}
    items, n = Items("comparison", options, systems, settings), 0
    for name in items.each(variants):
        model = with_retrieval(systems.model, variants[name])
        own = {"score_every": every, "progress": lambda done, total: None}
        measured = measure_perplexity(_perplexity(model, options, **own))
        perplexity = {system: measured["systems"][system]["perplexity"] for system in COMPARED}
        n = measured["systems"]["longmem"]["n"]
        gain = measured["gains"]["backbone"]
        items.add(name, {"name": name, "changes": variants[name], "perplexity": perplexity, "change": gain})
    return items.finish({}, documents=n)


def retrieval_variants(model: LongMemForCausalLM) -> dict[str, dict]:
    """As it was trained, and with one thing changed: how many tokens, which score of a chunk, one layer alone."""
    config = model.config
    fewer = max(config.chunk_size, config.retrieved_tokens // 4 // config.chunk_size * config.chunk_size)
    changes: dict[str, dict] = {"as trained": {}}
    for tokens in (fewer, 2 * config.retrieved_tokens):
        changes[f"{tokens} tokens retrieved"] = {"retrieved_tokens": tokens}
    other = "mean" if config.chunk_key == "max" else "max"
    changes[f"chunk score: {other}"] = {"chunk_key": other}
    if len(config.memory_layers) > 1:
        changes |= {f"layer {layer} alone": {"memory_layers": [layer]} for layer in config.memory_layers}
    return changes


def with_retrieval(model: LongMemForCausalLM, changes: dict) -> LongMemForCausalLM:
    """The same weights in a model of its own, with other settings. Errors: LongMemError, a setting that cannot be."""
    config = copy.deepcopy(model.config)
    for name, value in changes.items():
        setattr(config, name, value)
    config.validate_memory()
    variant = LongMemForCausalLM(config, copy_of(model.backbone.causal_lm))
    # A layer that no longer retrieves has no gate: that one has nowhere to go.
    variant.sidenet.load_state_dict(model.sidenet.state_dict(), strict=False)
    variant.tokenizer = model.tokenizer
    return variant.to(model.device, model.dtype).eval().freeze()


def table(result: dict) -> list[list[str]]:
    """Rows for people: variant, perplexities, change against the backbone, recall in training."""
    rows = [["variant", "backbone", "empty bank", "with bank", "against backbone", "recall in training"]]
    for item in result["items"]:
        values = [f"{item['perplexity'][name]:.2f}" for name in ("backbone", "empty_bank", "longmem")]
        change = f"{100 * item['change']['change']:+.1f} %"
        recall = f"{100 * item['recall']:.0f} %" if item.get("recall") is not None else "-"
        rows.append([item["name"], *values, change, recall])
    return rows
