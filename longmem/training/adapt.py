"""Train the SideNet on a frozen backbone: lanes of documents, each with a memory of its own.

Usage: `python -m longmem train sidenet --config cpu ...`, or without typer `python -m longmem.training.adapt CONFIG`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from longmem.errors import TrainingDataError
from longmem.model import LongMemForCausalLM
from longmem.row_memory import RowMemory, Sources
from longmem.training.data import be_one_worker, tokenize_packs
from longmem.training.lanes import LaneDocuments, LaneMixture, Lanes
from longmem.training.rows import IGNORED
from longmem.training.run import Run, make_optimizers, mean_over_processes, prepare_folder, set_learning_rate
from longmem.training.settings import run_as_module


@dataclass
class LaneTraining:
    """What every model that is trained on lanes depends on."""

    backbone: str = "runs/backbone/model"
    start_from: str | None = None
    output: str = "runs/lanes"
    packs: list[str] = field(default_factory=list)
    pack_shares: list[float] = field(default_factory=list)
    max_characters: int | None = None
    memory_layers: list[int] = field(default_factory=lambda: [4, 7])
    window: int = 512
    chunk_size: int = 4
    retrieved_tokens: int = 64
    chunk_key: str = "max"
    gate: str = "query"
    gate_start: float = 0.27
    read_overlap: int = 0
    without_memory: bool = False
    lanes: int = 8
    memory_tokens: int = 8192
    distractors: bool = False
    search_backend: str = "torch"
    segments: int = 40
    facts: float = 0.6
    facts_per_segment: float = 1.5
    demonstrations: float = 0.1
    empty_every: int = 6
    asked_weight: float = 1.0
    total_steps: int = 1500
    total_minutes: float | None = None
    max_minutes: float | None = None
    matrix_lr: float = 0.01
    other_lr: float = 3e-3
    weight_decay: float = 0.01
    warmup: int = 20
    decay_from: float = 0.5
    checkpoint_minutes: float = 10.0
    log_every: int = 10
    workers: int = 0
    mixed_precision: str = "bf16"
    seed: int = 1
    resume: bool = False


@dataclass
class SideNetTraining(LaneTraining):
    """Everything a run depends on; a TOML file sets any of these (see configs/sidenet-cpu.toml)."""

    output: str = "runs/sidenet"
    layer_reduction_factor: int = 2
    initialization: str = "attend"
    initialization_scale: float = 1.0
    source: str = "memory"
    sidenet_rank: int | None = None
    sidenet_alone: bool = False


class LaneStep(nn.Module):
    """One segment of every lane: backbone, SideNet with the lanes' memory, loss; then the segment enters the memory.

    Returns: the loss, and detached sums fp32 [6]: asked loss, asked count, asked hits, text loss, text count, gate sum.
    """

    def __init__(self, model: nn.Module, asked_weight: float) -> None:
        super().__init__()
        self.model, self.asked_weight = model, asked_weight
        self.gates: list[Tensor] = []
        self.keep: int | None = None

    def record(self, layer: int, retrieval: object, weights_BHTK: Tensor, gate_BHT: Tensor) -> None:
        self.gates.append(gate_BHT.detach().float().mean())

    def see_logits(self, logits_BTV: Tensor) -> None:
        """Nothing: `forward` has them."""

    def read(self, ids_BT: Tensor, memory: RowMemory | None) -> tuple[Tensor, dict[int, Tensor], dict[int, Tensor]]:
        """Logits_BTV of a segment that retrieves from `memory`, and its keys_BGTD and values_BGTD per memory layer."""
        model = self.model
        states = model.backbone(ids_BT)
        sources = Sources(model.config.retrieved_chunks, rows=memory) if memory is not None else None
        keys, values = ({b: qkv[i] for b, qkv in states.qkv.items()} for i in (1, 2))
        return model.backbone.head(model.sidenet(states, sources, self)), keys, values

    def forward(self, batch: dict[str, Tensor], memory: RowMemory | None, search: bool) -> tuple[Tensor, Tensor]:
        self.gates.clear()
        searched = memory if search else None
        logits_BTV, *keys_and_values = self.read(batch["input_ids"], searched)
        labels_BT, asked_BT = batch["labels"], batch["asked"]
        token_BT = nn.functional.cross_entropy(
            logits_BTV.float().flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORED, reduction="none"
        ).view_as(labels_BT)
        taught_BT = labels_BT != IGNORED
        asked_BT, text_BT = taught_BT & asked_BT, taught_BT & ~asked_BT
        # Without memory nobody can know the answers: those segments teach text alone.
        asked_weight = self.asked_weight if searched is not None else 0.0
        weights_BT = text_BT.float() + asked_weight * asked_BT.float()
        loss = (token_BT * weights_BT).sum() / mean_over_processes(weights_BT.sum()).clamp(min=1)
        if memory is not None:
            whole = torch.ones_like(labels_BT, dtype=torch.bool)
            keys, values = ({b: x.to(torch.bfloat16) for b, x in states.items()} for states in keys_and_values)
            memory.add(keys, values, whole)
        with torch.no_grad():
            hits = ((logits_BTV.argmax(-1) == labels_BT) & asked_BT).sum()
            parts = [(token_BT * asked_BT).sum(), asked_BT.sum(), hits, (token_BT * text_BT).sum(), text_BT.sum()]
            gate = torch.stack(self.gates).mean() if self.gates else token_BT.new_zeros(())
            return loss, torch.stack([*(p.float() for p in parts), gate])


def build_model(settings: SideNetTraining, backbone: PreTrainedModel | None = None) -> LongMemForCausalLM:
    """A SideNet on the named backbone, as the settings say: fresh, or with the weights of the model at `start_from`.

    That model may have been trained on an earlier state of the backbone. backbone: one that is loaded, to be taken
    instead of the named one.
    """
    names = [
        "memory_layers",
        "layer_reduction_factor",
        "window",
        "chunk_size",
        "retrieved_tokens",
        "chunk_key",
        "gate",
        "gate_start",
        "initialization",
        "initialization_scale",
        "source",
        "read_overlap",
        "sidenet_rank",
    ]
    torch.manual_seed(settings.seed)
    options = {name: getattr(settings, name) for name in names}
    model = LongMemForCausalLM.from_backbone(settings.backbone if backbone is None else backbone, **options)
    if settings.start_from:
        trained = LongMemForCausalLM.from_pretrained(settings.start_from, device="cpu").sidenet.state_dict()
        try:
            model.sidenet.load_state_dict(trained)
        except RuntimeError as error:
            raise TrainingDataError(
                f"start_from is {settings.start_from!r}; its SideNet has another form than these settings give."
            ) from error
    # A backbone may be in bf16, but what is trained needs the small steps of fp32.
    (model if settings.mixed_precision == "no" else model.sidenet).float()
    return model


def make_lanes(settings: LaneTraining, model: nn.Module, *, first_batch: int, process: int) -> Lanes:
    """The lanes of one process."""
    if not settings.packs:
        raise TrainingDataError("packs: no training data was given.")
    if settings.workers not in (0, 1):
        raise TrainingDataError(
            f"workers is {settings.workers}; one process makes all lanes, this one (0) or its own (1)."
        )
    cache = Path(settings.output).parent / "cache"
    corpora = [
        tokenize_packs([pack], model.tokenizer, cache_dir=cache, max_characters=settings.max_characters)
        for pack in settings.packs
    ]
    mixture = LaneMixture(
        segments=settings.segments,
        memory_segments=settings.memory_tokens // settings.window,
        facts=settings.facts,
        facts_per_segment=settings.facts_per_segment,
        demonstrations=settings.demonstrations,
    )
    documents = LaneDocuments(
        corpora,
        settings.pack_shares or [float(len(c.ids)) for c in corpora],
        model.tokenizer,
        length=settings.window,
        mixture=mixture,
    )
    first_lane = process * settings.lanes
    return Lanes(documents, lanes=settings.lanes, seed=settings.seed, first_batch=first_batch, first_lane=first_lane)


def adapt(settings: SideNetTraining) -> Path:
    """Train, checkpoint, and write to `output`/model: all in bf16, or the SideNet alone as it was trained."""
    prepare_folder(settings.output, resume=settings.resume, settings=settings)
    model = build_model(settings)
    accelerator = train_on_lanes(settings, model, LaneStep(model, settings.asked_weight))
    folder = Path(settings.output) / "model"
    if accelerator.is_main_process and settings.sidenet_alone:
        model.save_pretrained(folder, with_backbone=False)
    elif accelerator.is_main_process:
        save_bundled(model, folder)
    return folder


def train_on_lanes(settings: LaneTraining, model: nn.Module, step: LaneStep) -> Accelerator:
    """Train what requires gradients in `model`, through `step`, and leave a checkpoint."""
    # Segments that read with an empty memory leave the gates out of the loss.
    distributed = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(mixed_precision=settings.mixed_precision, kwargs_handlers=[distributed])
    optimizers = make_optimizers(
        model, matrix_lr=settings.matrix_lr, other_lr=settings.other_lr, weight_decay=settings.weight_decay
    )
    step, *optimizers = accelerator.prepare(step, *optimizers)
    run = Run(
        settings.output,
        accelerator,
        total_steps=settings.total_steps,
        total_minutes=settings.total_minutes,
        max_minutes=settings.max_minutes,
        checkpoint_minutes=settings.checkpoint_minutes,
    )
    if settings.resume:
        run.resume()
    lanes = make_lanes(settings, model, first_batch=run.step, process=accelerator.process_index)
    batches = iter(DataLoader(lanes, batch_size=None, num_workers=settings.workers, worker_init_fn=be_one_worker))
    _train(settings, run, accelerator, step, model, optimizers, batches)
    run.save()
    return accelerator


def save_bundled(model: LongMemForCausalLM, folder: str | Path) -> None:
    """Write backbone and SideNet together in bf16, under names that need no other folder."""
    model.config.backbone_name_or_path = None
    model.config.backbone_config._name_or_path = ""
    dtype = model.dtype
    model.to(torch.bfloat16).save_pretrained(folder)
    model.to(dtype)


def _train(
    settings: LaneTraining,
    run: Run,
    accelerator: Accelerator,
    step: nn.Module,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    batches: Iterator[dict[str, Tensor]],
) -> None:
    memory = None
    if not settings.without_memory:
        memory = RowMemory(
            settings.memory_layers,
            capacity=settings.memory_tokens,
            chunk_size=settings.chunk_size,
            chunk_key=settings.chunk_key,
            backend=settings.search_backend,
        )
    sums = torch.zeros(2, 8, device=accelerator.device)
    trainable = [p for p in model.parameters() if p.requires_grad]
    run.begin()
    while not run.done():
        batch = {name: tensor.to(accelerator.device) for name, tensor in next(batches).items()}
        if memory is not None:
            starts = batch.pop("starts")
            if not settings.distractors:
                memory.forget_rows(starts)
        search = memory is not None and run.step % settings.empty_every != settings.empty_every - 1
        factor = set_learning_rate(
            optimizers, run.step, run.progress, warmup=settings.warmup, decay_from=settings.decay_from
        )
        loss, parts = step(batch, memory, search)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trainable, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        run.advance(batch["input_ids"].numel() * accelerator.num_processes)
        sums[int(search)] += torch.cat([parts, loss.detach().view(1), torch.ones(1, device=parts.device)])
        if run.step % settings.log_every == 0:
            _log(run, accelerator.reduce(sums), factor)
            sums.zero_()
        if run.checkpoint_due():
            run.save()
    run.bar.close()


def _log(run: Run, sums: Tensor, factor: float) -> None:
    """One line of the sums [2, 8] of the steps without memory and with it, see `LaneStep`."""
    empty, (asked, n_asked, hits, text, n_text, gate, loss, steps) = sums.tolist()
    empty_text, n_empty = empty[3:5]
    run.log(
        loss=loss / max(1, steps),
        text=text / max(1, n_text),
        empty_text=empty_text / max(1, n_empty),
        asked=asked / max(1, n_asked),
        recall=hits / max(1, n_asked),
        gate=gate / max(1, steps),
        lr=factor,
    )


if __name__ == "__main__":
    run_as_module(__doc__, SideNetTraining, "sidenet", adapt, "backbone", "start_from", "preset", "without_memory")
