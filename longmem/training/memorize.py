"""Train MemTRM, the coupled baseline, on the lanes that the SideNet is trained on: same text, memory and loss.

Usage: `python -m longmem.training.memorize CONFIG`.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from longmem.memorizing import MemorizingTransformer
from longmem.row_memory import RowMemory
from longmem.training.adapt import LaneStep, LaneTraining, train_on_lanes
from longmem.training.pretrain import load_settings
from longmem.training.run import prepare_folder


@dataclass
class MemorizingTraining(LaneTraining):
    """Everything a run depends on; a TOML file sets any of these (see configs/memorize-cpu.toml)."""

    output: str = "runs/memtrm"
    trained_weights: str = "all"


class MemorizingStep(LaneStep):
    """One segment of every lane through the model itself; the keys that it leaves are stale after the next update."""

    def read(self, ids_BT: Tensor, memory: RowMemory | None) -> tuple[Tensor, dict[int, Tensor], dict[int, Tensor]]:
        return self.model(ids_BT, row_memory=memory, recorder=self)


def build_memorizing(settings: MemorizingTraining) -> MemorizingTransformer:
    """The named backbone with memory inside, as the settings say."""
    torch.manual_seed(settings.seed)
    return MemorizingTransformer.from_backbone(
        settings.backbone,
        memory_layers=settings.memory_layers,
        window=settings.window,
        chunk_size=settings.chunk_size,
        retrieved_tokens=settings.retrieved_tokens,
        chunk_key=settings.chunk_key,
        gate=settings.gate,
        gate_start=settings.gate_start,
        read_overlap=settings.read_overlap,
        trained_weights=settings.trained_weights,
    )


def train_memorizing(settings: MemorizingTraining) -> Path:
    """Train, checkpoint, and write the model to `output`/model. Returns that folder."""
    prepare_folder(settings.output, resume=settings.resume, settings=settings)
    model = build_memorizing(settings)
    accelerator = train_on_lanes(settings, model, MemorizingStep(model, settings.asked_weight))
    folder = Path(settings.output) / "model"
    if accelerator.is_main_process:
        model.save(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="a .toml file, or the name of a configuration of the package: cpu")
    parser.add_argument("--data", action="append", dest="packs", help="a pack of documents; repeat for more")
    parser.add_argument("--backbone")
    parser.add_argument("--output")
    parser.add_argument("--max-minutes", type=float)
    parser.add_argument("--resume", action="store_true", default=None)
    arguments = vars(parser.parse_args())
    settings = load_settings(MemorizingTraining, arguments.pop("config"), "memorize", **arguments)
    print(asdict(settings))
    print(train_memorizing(settings))


if __name__ == "__main__":
    main()
