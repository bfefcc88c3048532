"""Train MemTRM, the coupled baseline, on the lanes that the SideNet is trained on: same text, memory and loss.

Usage: `python -m longmem.training.memorize CONFIG`.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from longmem.errors import TrainingDataError
from longmem.memorizing import MemorizingTransformer
from longmem.row_memory import RowMemory
from longmem.training.adapt import LaneStep, LaneTraining, train_on_lanes
from longmem.training.run import prepare_folder
from longmem.training.settings import run_as_module


@dataclass
class MemorizingTraining(LaneTraining):
    """Everything a run depends on; a TOML file sets any of these (see configs/memorize-cpu.toml)."""

    output: str = "runs/memtrm"
    trained_weights: str = "all"


class MemorizingStep(LaneStep):
    """One segment of every lane through the model itself; the keys that it leaves are stale after the next update."""

    def read(self, ids_BT: Tensor, memory: RowMemory | None) -> tuple[Tensor, dict[int, Tensor], dict[int, Tensor]]:
        return self.model(ids_BT, row_memory=memory, recorder=self)


def build_memorizing(settings: MemorizingTraining, backbone: PreTrainedModel | None = None) -> MemorizingTransformer:
    """The named backbone, or one that is loaded and then changed in place, with memory inside, as the settings say.

    With `start_from`, the weights of the MemTRM that is saved there take the backbone's place.
    """
    torch.manual_seed(settings.seed)
    model = MemorizingTransformer.from_backbone(
        settings.backbone if backbone is None else backbone,
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
    if settings.start_from:
        trained = MemorizingTransformer.load(settings.start_from, device="cpu").state_dict()
        try:
            model.load_state_dict(trained)
        except RuntimeError as error:
            raise TrainingDataError(
                f"start_from is {settings.start_from!r}; that MemTRM has another form than these settings give."
            ) from error
    return model


def train_memorizing(settings: MemorizingTraining) -> Path:
    """Train, checkpoint, and write the model (bf16) to `output`/model. Returns that folder."""
    prepare_folder(settings.output, resume=settings.resume, settings=settings)
    model = build_memorizing(settings)
    accelerator = train_on_lanes(settings, model, MemorizingStep(model, settings.asked_weight))
    folder = Path(settings.output) / "model"
    if accelerator.is_main_process:
        model.to(torch.bfloat16).save(folder)
    return folder


if __name__ == "__main__":
    run_as_module(__doc__, MemorizingTraining, "memorize", train_memorizing, "backbone", "start_from")
