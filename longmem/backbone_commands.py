"""`python -m longmem inspect | retrieve`: what a language model can do before a SideNet is trained on it."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longmem.commands import Device, layer_numbers, quietly, remember_files, summary_of

if TYPE_CHECKING:
    import pandas as pd

    from longmem.induction import Suggestion
    from longmem.training_free import TrainingFreeMemory

Backbone = Annotated[str, typer.Option("--backbone", help="A language model without a SideNet: a folder or hub id.")]
MemoryLayers = Annotated[
    str | None, typer.Option("--memory-layers", help="Such as 4,7, counted from 0; default: what `inspect` suggests.")
]


def load_training_free(backbone: str, device: str, memory_layers: str | None) -> "TrainingFreeMemory":
    """Training-free memory in a language model, said to be that on standard error. Errors: LongMemError."""
    quietly(device)
    from longmem.training_free import METHOD, TrainingFreeMemory

    model = TrainingFreeMemory.from_backbone(backbone, memory_layers=layer_numbers(memory_layers), device=device)
    layers = ", ".join(map(str, model.config.memory_layers))
    print(f"{METHOD}; memory layers {layers} of {backbone}", file=sys.stderr)
    return model


def inspect(
    backbone: Backbone,
    count: Annotated[int, typer.Option(min=1, help="Suggest at most so many memory layers.")] = 2,
    layer_reduction_factor: Annotated[int, typer.Option(min=1, help="Backbone layers per SideNet layer.")] = 2,
    device: Device = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write what was measured to this file.")] = None,
) -> None:
    """Measure which layers of a language model find what came after this last time, and suggest memory layers."""
    quietly(device)
    from longmem.backbone import load_backbone
    from longmem.config import choose_device
    from longmem.induction import suggest_memory_layers

    place, _ = choose_device(device)
    model = load_backbone(backbone).to(place)
    found = suggest_memory_layers(model, count=count, layer_reduction_factor=layer_reduction_factor)
    _show_scores(found)
    print(f"\nmemory_layers = {found.memory_layers}: {found.reason}")
    if json_file is not None:
        measured = {
            "backbone": backbone,
            "family": model.config.model_type,
            "layer_reduction_factor": layer_reduction_factor,
            "memory_layers": found.memory_layers,
            "reason": found.reason,
            "prefix_matching": found.with_positions.tolist(),
            "prefix_matching_by_content": found.by_content.tolist(),
        }
        json_file.write_text(json.dumps(measured, indent=1), encoding="utf-8")


def _show_scores(found: "Suggestion") -> None:
    print("Prefix matching, 0 to 1: attention to what came after the same token the first time.")
    print("layer  best  by content, the way memory is searched: best and each head")
    for layer, (with_positions_H, by_content_H) in enumerate(zip(found.with_positions, found.by_content, strict=True)):
        mark = "*" if layer in found.memory_layers else " "
        heads = " ".join(f"{score:.2f}" for score in by_content_H.tolist())
        print(f"{layer:>4}{mark}  {with_positions_H.max():.2f}  {by_content_H.max():.2f}: {heads}")


def retrieve(
    backbone: Backbone,
    documents: Annotated[
        list[Path], typer.Option("--document", help="txt, md, html, pdf, epub or docx; repeat for more.")
    ],
    text: Annotated[str, typer.Option("--text", help="What to look up.")],
    memory_layers: MemoryLayers = None,
    rows: Annotated[int, typer.Option(min=1, help="Passages shown per layer.")] = 5,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Show what each memory layer of a language model, as it is, retrieves for a text. Not LongMem: no training."""
    from longmem.scoring import look_up
    from longmem.training_free import METHOD

    model = load_training_free(backbone, device, memory_layers)
    memory = model.new_bank()
    remember_files(model, documents, memory)
    frame = look_up(model, text, memory=memory).to_frame()
    if as_json:
        trace = json.loads(frame.to_json(orient="records"))
        print(json.dumps({"method": METHOD, "memory": summary_of(memory), "trace": trace}))
        return
    sys.stdout.reconfigure(errors="replace")
    for layer in model.config.memory_layers:
        print(_layer_table(frame[frame["layer"] == layer], layer, rows))


def _layer_table(frame: "pd.DataFrame", layer: int, rows: int) -> str:
    """The passages with the largest weight in one layer, summed over tokens and heads."""
    used = frame.groupby(["document", "start", "end", "text"], as_index=False)["weight"].sum()
    lines = [
        f"{row.weight:8.2f}  {row.document}, character {row.start}: {row.text!r}"
        for row in used.nlargest(rows, "weight").itertuples()
    ]
    head = f"layer {layer}: weight (attention's share, summed over tokens and heads) and passage"
    return "\n".join([head, *(lines or ["nothing was retrieved"])])
