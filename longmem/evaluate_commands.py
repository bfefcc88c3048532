"""`python -m longmem evaluate NAME`: every evaluation prints a table and, with --json, writes its result."""

from pathlib import Path
from typing import Annotated

import typer

from longmem.commands import BUNDLED, Backend, command
from longmem.errors import LongMemError
from longmem.options import show, typed

evaluate_app = typer.Typer(help="Measure a model and what it is compared with.", no_args_is_help=True)

Model = Annotated[str, typer.Option("--model", help="A folder or hub id; default: the bundled model.")]
Documents = Annotated[list[Path], typer.Option("--documents", help="txt, jsonl or jsonl.xz; repeat for more.")]
Overlap = Annotated[int | None, typer.Option(help="0 or half a window of context in reading; default: the model's.")]
MaxItems = Annotated[int | None, typer.Option("--max-items", min=1, help="Measure at most so many.")]
Seed = Annotated[int, typer.Option("--seed", help="Of everything that is drawn.")]
SystemNames = Annotated[
    str | None, typer.Option("--systems", help="Separated by commas; default: all whose weights are present.")
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run that was writing this --json file.")]
Full = Annotated[bool, typer.Option("--full", help="Measure everything, however long it takes.")]


def numbers(option: str, value: str, least: int = 0) -> tuple[int, ...]:
    """Whole numbers separated by commas, each at least `least`. Errors: LongMemError."""
    try:
        found = tuple(int(part) for part in value.split(","))
    except ValueError:
        raise LongMemError(f"{option} is {value!r}; it must be whole numbers separated by commas.") from None
    if min(found) < least:
        raise LongMemError(f"{option} is {value!r}; each must be at least {least}.")
    return found


def common(model: str, max_items, seed: int, systems: str | None, json_file, resume: bool, full: bool) -> dict:
    """The options of every evaluation as `results.Options` has them."""
    chosen = tuple(name.strip() for name in systems.split(",")) if systems else None
    return {
        "model": model,
        "max_items": max_items,
        "seed": seed,
        "systems": chosen,
        "json": json_file,
        "resume": resume,
        "full": full,
        "command": typed(),
    }


@command(evaluate_app, "perplexity")
def perplexity(
    documents: Documents,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of each document.")] = 65_536,
    score_every: Annotated[int, typer.Option(min=1, help="Score every n-th window; all are read.")] = 8,
    read_overlap: Overlap = None,
    model: Model = str(BUNDLED),
    max_items: MaxItems = None,
    seed: Seed = 1,
    systems: SystemNames = None,
    json_file: JsonFile = None,
    resume: Resume = False,
    full: Full = False,
) -> None:
    """Perplexity of documents that are read from beginning to end, by length and by place."""
    from longmem.evaluation.perplexity import PerplexityOptions, measure_perplexity, table

    options = common(model, max_items, seed, systems, json_file, resume, full)
    own = {"max_tokens": max_tokens, "score_every": score_every, "read_overlap": read_overlap}
    show(table(measure_perplexity(PerplexityOptions(**options, documents=tuple(documents), **own))))


@command(evaluate_app, "needle")
def needle(
    documents: Documents,
    lengths: Annotated[str, typer.Option(help="Tokens in memory, separated by commas.")] = "1024,2048,8192,32768,65536",
    depths: Annotated[int, typer.Option(min=1, help="Bands of depth in the result.")] = 10,
    facts: Annotated[int, typer.Option(min=1, help="Asked for at each length, of each kind.")] = 48,
    kinds: Annotated[str, typer.Option(help="known, held_out, distractors.")] = "known,held_out,distractors",
    read_overlap: Overlap = None,
    model: Model = str(BUNDLED),
    max_items: MaxItems = None,
    seed: Seed = 1,
    systems: SystemNames = None,
    json_file: JsonFile = None,
    resume: Resume = False,
    full: Full = False,
) -> None:
    """Recall of facts planted in a long text, by length and depth."""
    from longmem.evaluation.needle import NeedleOptions, measure_needle, table

    options = common(model, max_items, seed, systems, json_file, resume, full)
    own = {"lengths": numbers("--lengths", lengths, 1), "depths": depths, "facts": facts}
    settings = NeedleOptions(
        **options, documents=tuple(documents), read_overlap=read_overlap, kinds=tuple(kinds.split(",")), **own
    )
    show(table(measure_needle(settings)))


@command(evaluate_app, "efficiency")
def efficiency(
    documents: Documents,
    lengths: Annotated[str, typer.Option(help="Tokens of context, separated by commas.")] = "1024,4096,16384,65536",
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens written after each context.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are compared.")] = 3,
    backend: Backend = None,
    model: Model = str(BUNDLED),
    max_items: MaxItems = None,
    seed: Seed = 1,
    systems: SystemNames = None,
    json_file: JsonFile = None,
    resume: Resume = False,
    full: Full = False,
) -> None:
    """Tokens per second and bytes by length: full attention, a sliding window, LongMem."""
    from longmem.bench.contenders import PROMPT
    from longmem.evaluation.efficiency import EfficiencyOptions, measure_efficiency, table

    options = common(model, max_items, seed, systems, json_file, resume, full)
    own = {"lengths": numbers("--lengths", lengths, PROMPT + 1), "new_tokens": new_tokens}
    settings = EfficiencyOptions(
        **options, documents=tuple(documents), rounds=rounds, backend=backend or "torch", **own
    )
    show(table(measure_efficiency(settings)))


@command(evaluate_app, "comparison")
def comparison(
    documents: Documents,
    data: Annotated[list[str], typer.Option(help="A pack of training text; repeat for more.")],
    config: Annotated[str, typer.Option(help="cpu, or a .toml file with [variants.NAME].")] = "cpu",
    output: Annotated[
        Path, typer.Option(help="Folder for the runs; what is trained there is not trained again.")
    ] = Path("runs/comparison"),
    max_tokens: Annotated[int, typer.Option(min=1, help="Of each document.")] = 6_144,
    model: Model = str(BUNDLED),
    max_items: MaxItems = None,
    seed: Seed = 1,
    systems: SystemNames = None,
    json_file: JsonFile = None,
    resume: Resume = False,
    full: Full = False,
) -> None:
    """Short trainings that differ in one setting, measured on held-out text."""
    from longmem.evaluation.comparison import ComparisonOptions, measure_comparison, table

    options = common(model, max_items, seed, systems, json_file, resume, full)
    own = {"config": config, "output": output, "packs": tuple(data), "max_tokens": max_tokens}
    show(table(measure_comparison(ComparisonOptions(**options, documents=tuple(documents), **own))))


@command(evaluate_app, "retrieval")
def retrieval(
    documents: Documents,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of each document.")] = 6_144,
    score_every: Annotated[int, typer.Option(min=1, help="Score every n-th window; all are read.")] = 2,
    model: Model = str(BUNDLED),
    max_items: MaxItems = None,
    seed: Seed = 1,
    systems: SystemNames = None,
    json_file: JsonFile = None,
    resume: Resume = False,
    full: Full = False,
) -> None:
    """The model with other numbers of retrieved tokens, chunk scores and layers than it was trained with."""
    from longmem.evaluation.comparison import RetrievalOptions, measure_retrieval, table

    options = common(model, max_items, seed, systems, json_file, resume, full)
    own = {"max_tokens": max_tokens, "score_every": score_every}
    show(table(measure_retrieval(RetrievalOptions(**options, documents=tuple(documents), **own))))


@command(evaluate_app, "report")
def report(
    files: Annotated[list[Path] | None, typer.Argument(help="Default: README.md and the bundled model's card.")] = None,
    results: Annotated[Path, typer.Option(help="Folder with the results.")] = BUNDLED.parent / "results",
) -> None:
    """Write the tables of the results into the files that have a place for them."""
    from longmem.evaluation.report import rewrite

    for path in files or [BUNDLED.parent.parent / "README.md", BUNDLED / "README.md"]:
        print(f"{path}: {'rewritten' if rewrite(path, results) else 'as it was'}")


@command(evaluate_app, "suffix")
def suffix(
    documents: Documents,
    manifest: Annotated[Path | None, typer.Option(help="JSON lines with title and chapter_offsets.")] = None,
    prefix_tokens: Annotated[int, typer.Option(min=2, help="The longest prefix.")] = 8_192,
    with_headings: Annotated[bool, typer.Option("--with-headings", help="Leave the headings in: the leak.")] = False,
    breaks_per_book: Annotated[int | None, typer.Option(min=1, help="At most; default: 60 over all books.")] = None,
    read_overlap: Overlap = None,
    model: Model = str(BUNDLED),
    max_items: MaxItems = None,
    seed: Seed = 1,
    systems: SystemNames = None,
    json_file: JsonFile = None,
    resume: Resume = False,
    full: Full = False,
) -> None:
    """Which of six passages is the beginning of the next chapter?"""
    from longmem.evaluation.suffix_identification import SuffixOptions, measure_suffix, table

    options = common(model, max_items, seed, systems, json_file, resume, full)
    own = {"manifest": manifest, "prefix_tokens": prefix_tokens, "with_headings": with_headings}
    own |= {"breaks_per_book": breaks_per_book, "read_overlap": read_overlap}
    show(table(measure_suffix(SuffixOptions(**options, documents=tuple(documents), **own))))


@command(evaluate_app, "icl")
def icl(
    train: Annotated[list[Path], typer.Option(help="Demonstrations: CSV, JSONL or TSV; repeat for more sets.")],
    test: Annotated[list[Path], typer.Option(help="Texts to classify, one file for each --train.")],
    name: Annotated[list[str] | None, typer.Option(help="Of each set; default: its folder's or file's.")] = None,
    template: Annotated[str | None, typer.Option(help="With {text} and {label}; default: the paper's.")] = None,
    text_column: Annotated[str, typer.Option(help="Where the text stands.")] = "text",
    label_column: Annotated[str, typer.Option(help="Where the label stands.")] = "label",
    in_window: Annotated[str, typer.Option(help="Demonstrations in the window, separated by commas.")] = "4,20",
    in_memory: Annotated[str, typer.Option(help="Demonstrations in memory.")] = "0,20,200,2000",
    seeds: Annotated[int, typer.Option(min=1, help="Draws of demonstrations.")] = 6,
    read_overlap: Overlap = None,
    model: Model = str(BUNDLED),
    max_items: MaxItems = None,
    seed: Seed = 1,
    systems: SystemNames = None,
    json_file: JsonFile = None,
    resume: Resume = False,
    full: Full = False,
) -> None:
    """Accuracy of classification with labelled demonstrations in the window and in memory."""
    from longmem.evaluation.in_context_learning import IclOptions, measure_icl, table

    options = common(model, max_items, seed, systems, json_file, resume, full)
    own = {"in_window": numbers("--in-window", in_window), "in_memory": numbers("--in-memory", in_memory)}
    own |= {"train": tuple(train), "test": tuple(test), "name": tuple(name or ()), "template": template}
    own |= {"text_column": text_column, "label_column": label_column, "seeds": seeds, "read_overlap": read_overlap}
    show(table(measure_icl(IclOptions(**options, **own))))


@command(evaluate_app, "attribution")
def attribution(
    documents: Documents,
    read_tokens: Annotated[int, typer.Option(min=1, help="Of each document, before what is scored.")] = 16_384,
    tokens_per_document: Annotated[int, typer.Option(min=1, help="Drawn from those that memory moved.")] = 32,
    removed: Annotated[str, typer.Option(help="Numbers of chunks to remove.")] = "1,2,4,8,16",
    model: Model = str(BUNDLED),
    max_items: MaxItems = None,
    seed: Seed = 1,
    systems: SystemNames = None,
    json_file: JsonFile = None,
    resume: Resume = False,
    full: Full = False,
) -> None:
    """What removing the chunk with the largest weight costs, against a random one: are the charts faithful?"""
    from longmem.evaluation.attribution import AttributionOptions, measure_attribution, table

    options = common(model, max_items, seed, systems, json_file, resume, full)
    own = {"read_tokens": read_tokens, "tokens_per_document": tokens_per_document}
    settings = AttributionOptions(
        **options, documents=tuple(documents), removed=numbers("--removed", removed, 1), **own
    )
    show(table(measure_attribution(settings)))


@command(evaluate_app, "staleness")
def staleness(
    documents: Documents,
    backbone: Annotated[str | None, typer.Option(help="Default: the one inside the model.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of training, for both systems.")] = 60,
    every: Annotated[int, typer.Option(min=1, help="Measure after so many.")] = 10,
    lanes: Annotated[int, typer.Option(min=1, help="Texts read side by side.")] = 4,
    memory_tokens: Annotated[int, typer.Option(min=1, help="Of each lane.")] = 8_192,
    probes: Annotated[int, typer.Option(min=1, help="Texts held back from training, to measure on.")] = 4,
    probe_tokens: Annotated[int, typer.Option(min=1, help="Of each, read into memory.")] = 2_048,
    model: Model = str(BUNDLED),
    max_items: MaxItems = None,
    seed: Seed = 1,
    systems: SystemNames = None,
    json_file: JsonFile = None,
    resume: Resume = False,
    full: Full = False,
) -> None:
    """What happens to cached keys while MemTRM and LongMem are trained on the same text."""
    from longmem.evaluation.staleness import StalenessOptions, measure_staleness, table

    options = common(model, max_items, seed, systems, json_file, resume, full)
    own = {"backbone": backbone, "steps": steps, "every": every, "lanes": lanes, "memory_tokens": memory_tokens}
    own |= {"probes": probes, "probe_tokens": probe_tokens}
    show(table(measure_staleness(StalenessOptions(**options, documents=tuple(documents), **own))))
