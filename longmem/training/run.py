"""One training run on disk: checkpoints that survive a kill at any moment, a time budget, metrics, a progress bar."""

import json
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast, parse_flag_from_env
from torch import distributed
from tqdm import tqdm

from longmem.errors import TrainingDataError


class Run:
    """Folder, clock and log of one training run.

    `progress` (0 to 1) is the larger of steps done over `total_steps` and, where `total_minutes` is given, of training
    minutes over all resumed calls; the schedule follows it. `max_minutes` ends this call only. Time is that of the main
    process and goes on with `done`, so that several processes always decide alike. `flops_per_token` and `matrix_rate`
    (of one device) are set by a run that logs which share of the device's rate it reaches.
    """

    def __init__(
        self,
        folder: str | Path,
        accelerator: Accelerator,
        *,
        total_steps: int,
        total_minutes: float | None,
        max_minutes: float | None,
        checkpoint_minutes: float = 10.0,
    ) -> None:
        self.folder, self.accelerator = Path(folder), accelerator
        self.total_steps, self.total_minutes, self.max_minutes = total_steps, total_minutes, max_minutes
        self.checkpoint_minutes = checkpoint_minutes
        self.step, self.tokens, self.minutes_before = 0, 0, 0.0
        self.started = self.last_checkpoint = self.now = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.bar: tqdm | None = None
        self.flops_per_token: int | None = None
        self.matrix_rate: float | None = None

    @property
    def minutes(self) -> float:
        return self.minutes_before + (self.now - self.started) / 60

    @property
    def progress(self) -> float:
        by_time = self.minutes / self.total_minutes if self.total_minutes else 0.0
        return min(1.0, max(self.step / self.total_steps, by_time))

    def begin(self) -> None:
        """Start the clock anew, so that building the model and the data does not count, and show the bar."""
        self.started = self.last_checkpoint = self.now = self._main_clock()
        self._logged_at, self._logged_tokens, self.tokens_per_second = time.monotonic(), self.tokens, 0.0
        self.bar = tqdm(
            total=100.0,
            initial=round(100 * self.progress, 2),
            disable=not self.accelerator.is_main_process,
            bar_format="{percentage:5.1f}% |{bar:20}| {elapsed}<{remaining} {postfix}",
        )

    def done(self) -> bool:
        self.now = self._main_clock()
        spent = (self.now - self.started) / 60
        return self.progress >= 1.0 or (self.max_minutes is not None and spent >= self.max_minutes)

    def _main_clock(self) -> float:
        """Seconds on the clock of the main process."""
        now = time.monotonic()
        if self.accelerator.num_processes == 1:
            return now
        # fp64 is not on every device, and fp32 has no milliseconds after a few days.
        parts = torch.tensor([int(now), int(now % 1 * 1e6)], device=self.accelerator.device)
        seconds, microseconds = broadcast(parts).tolist()
        return seconds + microseconds / 1e6

    def advance(self, tokens: int) -> None:
        self.step += 1
        self.tokens += tokens

    def log(self, **values: float | list | dict) -> None:
        """Append one line to metrics.jsonl and show the plain numbers in the bar.

        tokens_per_second is of the time since the line before; matrix_share is what of the rate at which the devices
        multiply matrices the model's own products have used in it.
        """
        self._measure_speed()
        row = {
            "step": self.step,
            "tokens": self.tokens,
            "minutes": round(self.minutes, 2),
            "tokens_per_second": round(self.tokens_per_second, 1),
            **values,
        }
        if self.matrix_rate and self.tokens_per_second and "loss" in values:
            rate = self.matrix_rate * self.accelerator.num_processes
            row["matrix_share"] = round(self.tokens_per_second * self.flops_per_token / rate, 4)
        if self.accelerator.is_main_process:
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            shown = {k: f"{v:.3g}" for k, v in values.items() if isinstance(v, float)}
            self.bar.set_postfix(tok_s=f"{self.tokens_per_second:.0f}", **shown)
            self.bar.update(max(0.0, 100 * self.progress - self.bar.n))

    def _measure_speed(self) -> None:
        """Tokens per second since a line before; lines of one step have the same."""
        now = time.monotonic()
        if self.tokens > self._logged_tokens:
            self.tokens_per_second = (self.tokens - self._logged_tokens) / max(1e-9, now - self._logged_at)
            self._logged_at, self._logged_tokens = now, self.tokens

    def checkpoint_due(self) -> bool:
        return (self.now - self.last_checkpoint) / 60 >= self.checkpoint_minutes

    def save(self) -> Path:
        """Write a checkpoint beside the old one, rename it, then delete the old one; what is there is not rewritten."""
        whole = self.folder / f"checkpoint-{self.step:08d}"
        if whole in self._checkpoints():
            return whole
        part = self.folder / "checkpoint.part"
        if self.accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(part), safe_serialization=False)
        if self.accelerator.is_main_process:
            state = {"step": self.step, "tokens": self.tokens, "minutes": self.minutes}
            (part / "run.json").write_text(json.dumps(state))
            shutil.rmtree(whole, ignore_errors=True)
            part.rename(whole)
            for old in self._checkpoints():
                if old != whole:
                    shutil.rmtree(old)
        self.accelerator.wait_for_everyone()
        self.last_checkpoint = self.now
        return whole

    def resume(self) -> bool:
        """Load the newest whole checkpoint, if there is one."""
        found = self._checkpoints()
        if not found:
            if self.accelerator.is_main_process:
                self._forget_metrics()
            return False
        self.accelerator.load_state(str(found[-1]))
        state = json.loads((found[-1] / "run.json").read_text())
        self.step, self.tokens, self.minutes_before = state["step"], state["tokens"], state["minutes"]
        if self.accelerator.is_main_process:
            self._forget_metrics()
        return True

    def _forget_metrics(self) -> None:
        """Drop the lines of steps that a kill has undone and that will be logged again, and a line cut by it."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.step]
        if len(kept) < len(lines):
            write_whole(path, "".join(kept))

    def _checkpoints(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("checkpoint-*") if (p / "run.json").exists())


# What may differ between the calls of one run: how long it goes, where, and what it says; the rest decides all.
FREE_SETTINGS = set(
    "resume max_minutes total_minutes total_steps total_tokens checkpoint_minutes log_every probe_every workers "
    "compile mixed_precision packs backbone start_from tokenizer output search_backend".split()
)


def join_processes() -> PartialState:
    """The processes of this run, as `torchrun` or `accelerate launch` started them; the first to ask decides for all.

    accelerate takes part in a run on CPUs only where it is told that there is no GPU.
    """
    on_cpus = "LOCAL_RANK" in os.environ and not torch.accelerator.is_available()
    return PartialState(cpu=on_cpus or parse_flag_from_env("ACCELERATE_USE_CPU"))


def prepare_folder(folder: str | Path, *, resume: bool, settings: object) -> None:
    """Refuse to write over another run, or to go on with one under other settings; keep them beside the weights."""
    processes = join_processes()
    with processes.main_process_first():
        _prepare_folder(Path(folder), resume, settings, write=processes.is_main_process)


def _prepare_folder(folder: Path, resume: bool, settings: object, write: bool) -> None:
    if not resume and any(folder.glob("checkpoint-*")):
        raise TrainingDataError(f"output: {folder} holds a run already; use --resume to go on, or another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    path, given = folder / "settings.json", json.loads(json.dumps(asdict(settings), default=str))
    if resume and path.exists():
        before = json.loads(path.read_text())
        for name in sorted(set(before) & set(given) - FREE_SETTINGS):
            if before[name] != given[name]:
                raise TrainingDataError(
                    f"{name} is {given[name]!r}, but the run in {folder} was begun with {before[name]!r}; "
                    "a run goes on with the settings that it began with."
                )
    if write:
        write_whole(path, json.dumps(given, indent=1))


def write_whole(path: Path, text: str) -> None:
    """Write a file beside the old one and rename it, so that a kill leaves one or the other."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def mean_over_processes(amount: torch.Tensor) -> torch.Tensor:
    """Of a number without a gradient. Divided by it, the losses of unlike shares average to that of all together."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return amount
    total = amount.detach().clone().float()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def make_optimizers(
    model: torch.nn.Module,
    *,
    matrix_lr: float,
    other_lr: float,
    weight_decay: float,
    names: Iterable[str] = ("embed", "lm_head", "down_RI", "up_OR"),
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for embeddings, norms, gates, biases and low-rank deltas."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim == 2 and not any(part in name for part in names)
            (matrices if is_matrix else others).append(parameter)
    optimizers = [torch.optim.AdamW(others, lr=other_lr, betas=(0.9, 0.95), weight_decay=0.0)]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=matrix_lr, weight_decay=weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def set_learning_rate(
    optimizers: Iterable[torch.optim.Optimizer], step: int, progress: float, *, warmup: int, decay_from: float
) -> float:
    """Warm up over `warmup` steps, hold, then fall linearly from `decay_from` of the run. Returns the factor."""
    factor = min(1.0, (step + 1) / max(1, warmup))
    if progress > decay_from:
        factor *= max(0.02, (1 - progress) / (1 - decay_from))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
    return factor
