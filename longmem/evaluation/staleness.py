"""The paper's argument for a frozen backbone, shown: memory grows stale where the model that wrote it is trained.

LongMem and MemTRM begin from the same backbone and are trained on the same batches. Some probe texts, held back, are
read into memory before the first step. As training goes on, that memory is compared with one that the model of the
moment writes. In LongMem the backbone writes the keys, so nothing can change.

Shapes: P probe texts, B lanes, T tokens, H query heads, G key-value heads, D head dimension, N stored tokens, C chunks.
"""

import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from longmem.backbone import copy_of
from longmem.errors import LongMemError
from longmem.evaluation.results import Items, Options, always_compares, bootstrap, draw, settings_of
from longmem.evaluation.systems import Systems
from longmem.model import LongMemForCausalLM
from longmem.retrieval import Retrieval
from longmem.row_memory import RowMemory
from longmem.training.adapt import LaneStep, LaneTraining, SideNetTraining, build_model
from longmem.training.data import TokenCorpus, read_packs
from longmem.training.lanes import LaneDocuments, LaneMixture, Lanes
from longmem.training.memorize import MemorizingStep, MemorizingTraining, build_memorizing
from longmem.training.run import make_optimizers, set_learning_rate

SETTINGS = (
    "documents backbone window steps every lanes memory_tokens probes probe_tokens max_characters matrix_lr other_lr "
    "warmup"
).split()
# What both systems take over from the model that is shown, and LongMem alone.
SHARED = "memory_layers window chunk_size retrieved_tokens chunk_key gate gate_start".split()
OF_SIDENET = "layer_reduction_factor initialization initialization_scale source".split()


@dataclass(frozen=True)
class StalenessOptions(Options):
    """documents: txt, jsonl or jsonl.xz files, for training and probes; max_characters: of each (with `full` all).

    backbone: a folder or a name on the hub, by default the one inside `model`; window: in tokens, by default the
    model's (a smaller one is faster); steps: of training, measured at the start, after `every` so many and at the end;
    memory_tokens: of each lane; probes: texts held back from training (at most `max_items`), of which probe_tokens are
    read and the next window is scored; matrix_lr: Muon's, other_lr: AdamW's, warmup: steps until they are reached, for
    both systems.
    """

    documents: tuple[Path, ...] = ()
    backbone: str | None = None
    window: int | None = None
    steps: int = 60
    every: int = 10
    lanes: int = 4
    memory_tokens: int = 8_192
    probes: int = 4
    probe_tokens: int = 2_048
    max_characters: int = 200_000
    matrix_lr: float = 0.01
    other_lr: float = 1e-3
    warmup: int = 5


def measure_staleness(options: StalenessOptions) -> dict:
    """Measure, and return (and write) the result: `systems` at the end of training, and the `curve` that led there.

    Training cannot be taken up in the middle: `resume` repeats it, without measuring again what was kept. n counts
    probe texts, over which the intervals go.

    Raises:
        LongMemError: an option outside what is allowed, or too few texts.
    """
    always_compares(options, "staleness", ("longmem", "memtrm"))
    _check(options)
    systems = Systems(options.model, ("longmem",))
    items = Items("staleness", options, systems, settings_of(options, *SETTINGS))
    rows = staleness_steps(options, measured=[int(step) for step in items.found])
    for step in items.each(map(str, measured_steps(options))):
        items.add(step, next(rows))
    return staleness_result(items)


def staleness_result(items: Items) -> dict:
    """The result of the steps that have been measured, one at least."""
    curve = list(items.found.values())
    found = {name: curve[-1][name] for name in ("longmem", "memtrm")}
    exact = all(row["longmem_is_exact"] for row in curve)
    return items.finish(found, gains={}, curve=curve, longmem_is_exact=exact)


def staleness_steps(
    options: StalenessOptions, stop: threading.Event | None = None, *, measured: Collection[int] = ()
) -> Iterator[dict]:
    """Train both systems, and yield one row of the curve at a time: {"step", "longmem", "memtrm", "longmem_is_exact"}.

    Of each system: `cosine` of the keys cached at the start and the same keys encoded now; `overlap`, the share of
    retrieved chunks that are the same with either; perplexity with either (`perplexity_stale`, `perplexity_fresh`), and
    `change`, what staleness does to it. longmem_is_exact: its keys and values are the same, bit for bit.

    Args:
        stop: set it to end after the current step of training.
        measured: steps that are passed over.

    Raises:
        LongMemError: an option outside what is allowed, or too few texts.
    """
    _check(options)
    shown = Systems(options.model, ("longmem",)).model
    learners = {"longmem": _longmem(options, shown), "memtrm": _memtrm(options, shown)}
    tokenizer = learners["longmem"].step.model.tokenizer or shown.need_tokenizer()
    window = options.window or shown.config.window
    probes, training = _texts(options, tokenizer, window)
    probe = Probe(probes.to(shown.device), options.probe_tokens)
    for learner in learners.values():
        learner.cached = learner.read(probe.past_PT)
    batches = iter(_lanes(options, training, tokenizer, window))
    last = max(set(measured_steps(options)) - set(measured), default=-1)
    for step in range(last + 1):
        if step in measured_steps(options) and step not in measured:
            yield _row(step, {name: learner.compare(probe) for name, learner in learners.items()})
        if step == last or (stop is not None and stop.is_set()):
            return
        batch = {name: tensor.to(shown.device) for name, tensor in next(batches).items()}
        for learner in learners.values():
            learner.learn(batch, step)


def _check(options: StalenessOptions) -> None:
    for name in ("steps", "every", "lanes", "memory_tokens", "probes", "probe_tokens"):
        if getattr(options, name) < 1:
            raise LongMemError(f"{name} is {getattr(options, name)}; it must be at least 1.")
    for name in ("matrix_lr", "other_lr"):
        if getattr(options, name) < 0:
            raise LongMemError(f"{name} is {getattr(options, name)}; it must be at least 0.")
    if options.window is not None and options.window < 1:
        raise LongMemError(f"window is {options.window}; it must be at least 1.")


def measured_steps(options: StalenessOptions) -> list[int]:
    """After how many steps of training there is a row of the curve."""
    return sorted({*range(0, options.steps, options.every), options.steps})


# Texts -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """Texts that nobody is trained on [P, probe_tokens + window + 1]: what is read, and the window that is scored."""

    ids_PT: Tensor
    n_read: int

    @property
    def past_PT(self) -> Tensor:
        return self.ids_PT[:, : self.n_read]

    @property
    def later_PT(self) -> Tensor:
        return self.ids_PT[:, self.n_read :]


def _texts(
    options: StalenessOptions, tokenizer: PreTrainedTokenizerFast, window: int
) -> tuple[Tensor, list[np.ndarray]]:
    """The probes [P, T], the same ones for a seed, and all other texts. Errors: LongMemError, too few of them."""
    if options.probe_tokens % window:
        raise LongMemError(f"probe_tokens is {options.probe_tokens}; it must be a multiple of the window ({window}).")
    most = None if options.full else options.max_characters
    texts = [text[:most] for _, text in read_packs(options.documents)]
    encoded = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    ids = [np.array(encoding.ids) for encoding in encoded]
    needed = options.probe_tokens + window + 1
    long_enough = [i for i, part in enumerate(ids) if len(part) >= needed]
    wanted = min(options.probes, options.max_items or options.probes)
    if len(long_enough) < wanted or len(ids) == wanted:
        raise LongMemError(
            f"probes is {wanted}; documents hold {len(ids)} texts, {len(long_enough)} of them with the "
            f"{needed} tokens of a probe, and one more text must remain to train on."
        )
    chosen = draw(long_enough, wanted, options.seed)
    probes = torch.from_numpy(np.stack([ids[i][:needed] for i in chosen]))
    return probes, [part for i, part in enumerate(ids) if i not in chosen]


def _lanes(
    options: StalenessOptions, texts: list[np.ndarray], tokenizer: PreTrainedTokenizerFast, window: int
) -> Iterable[dict[str, Tensor]]:
    """Batches as the training of both systems reads them."""
    starts = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
    corpus = TokenCorpus(np.concatenate(texts), starts)
    mixture = LaneMixture(memory_segments=max(1, options.memory_tokens // window))
    documents = LaneDocuments([corpus], [1.0], tokenizer, length=window, mixture=mixture)
    return DataLoader(Lanes(documents, lanes=options.lanes, seed=options.seed), batch_size=None)


# Systems in training -----------------------------------------------------------------------------------------------


def _longmem(options: StalenessOptions, shown: LongMemForCausalLM) -> "Learner":
    settings = SideNetTraining(**_settings(options, shown, SHARED + OF_SIDENET))
    model = build_model(settings, _loaded(options, shown)).to(shown.device)
    return FrozenLearner(LaneStep(model, settings.asked_weight), settings)


def _memtrm(options: StalenessOptions, shown: LongMemForCausalLM) -> "Learner":
    settings = MemorizingTraining(**_settings(options, shown, SHARED))
    model = build_memorizing(settings, _loaded(options, shown)).to(shown.device)
    return Learner(MemorizingStep(model, settings.asked_weight), settings)


def _loaded(options: StalenessOptions, shown: LongMemForCausalLM) -> PreTrainedModel | None:
    """A backbone in fp32 for one learner, which may change it; None where the options name one to be loaded."""
    return None if options.backbone else copy_of(shown.backbone.causal_lm).float()


def _settings(options: StalenessOptions, shown: LongMemForCausalLM, names: Iterable[str]) -> dict:
    """Of training: those of memory as in the model that is shown, the rest from the options."""
    return {name: getattr(shown.config, name) for name in names} | {
        "window": options.window or shown.config.window,
        "backbone": options.backbone or "",
        "lanes": options.lanes,
        "memory_tokens": options.memory_tokens,
        "total_steps": options.steps,
        "matrix_lr": options.matrix_lr,
        "other_lr": options.other_lr,
        "warmup": options.warmup,
        "seed": options.seed,
    }


class Learner:
    """One system in training. `cached` is what it wrote of the probes before the first step."""

    def __init__(self, step: LaneStep, settings: LaneTraining) -> None:
        self.step, self.settings = step, settings
        rates = {"matrix_lr": settings.matrix_lr, "other_lr": settings.other_lr}
        self.optimizers = make_optimizers(step.model, weight_decay=settings.weight_decay, **rates)
        self.trained = [parameter for parameter in step.model.parameters() if parameter.requires_grad]
        self.memory = self._new_memory(settings.memory_tokens)
        self.cached: RowMemory | None = None

    def _new_memory(self, capacity: int) -> RowMemory:
        settings = self.settings
        options = {"chunk_size": settings.chunk_size, "chunk_key": settings.chunk_key}
        return RowMemory(settings.memory_layers, capacity=capacity, **options)

    @torch.enable_grad()
    def learn(self, batch: dict[str, Tensor], index: int) -> None:
        """One step of training; the batch stays as it was."""
        settings = self.settings
        self.memory.forget_rows(batch["starts"])
        set_learning_rate(
            self.optimizers,
            index,
            index / settings.total_steps,
            warmup=settings.warmup,
            decay_from=settings.decay_from,
        )
        search = index % settings.empty_every != settings.empty_every - 1
        with torch.autocast(batch["input_ids"].device.type, torch.bfloat16):
            loss, _ = self.step(batch, self.memory, search)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()

    @torch.no_grad()
    def read(self, ids_PT: Tensor) -> RowMemory:
        """A memory of these texts, written by the model as it is now, window by window."""
        memory = self._new_memory(ids_PT.shape[1])
        for part_PT in ids_PT.split(self.settings.window, dim=1):
            states = self.written(part_PT, memory)
            keys, values = ({b: x.to(torch.bfloat16) for b, x in layers.items()} for layers in states)
            memory.add(keys, values, torch.ones_like(part_PT, dtype=torch.bool))
        return memory

    def written(self, ids_PT: Tensor, memory: RowMemory) -> Sequence[dict[int, Tensor]]:
        """Keys and values of a window [P, G, T, D] per memory layer."""
        return self.step.read(ids_PT, memory)[1:]

    @torch.no_grad()
    def compare(self, probe: Probe) -> dict:
        """What was cached against what is written now; of each probe [P]: cosine, overlap, and losses in nats."""
        fresh = self.read(probe.past_PT)
        both = ComparedMemory(fresh, self.cached)
        return {
            "cosine": key_cosines(self.cached, fresh),
            "fresh": self._losses(probe.later_PT, both),
            "stale": self._losses(probe.later_PT, self.cached),
            "overlap": torch.stack(both.overlaps_P).mean(0).tolist(),
            "exact": same_states(self.cached, fresh),
        }

    def _losses(self, ids_PT: Tensor, memory: "RowMemory | ComparedMemory") -> list[float]:
        """Mean negative log-likelihood of each text with this memory."""
        logits_PTV, *_ = self.step.read(ids_PT[:, :-1], memory)
        logits_PVT = logits_PTV.float().transpose(1, 2)
        return nn.functional.cross_entropy(logits_PVT, ids_PT[:, 1:], reduction="none").mean(1).tolist()


class FrozenLearner(Learner):
    """LongMem in training: the backbone writes alone, without looking into memory."""

    def written(self, ids_PT: Tensor, memory: RowMemory) -> Sequence[dict[int, Tensor]]:
        states = self.step.model.backbone(ids_PT)
        return [{b: qkv[i] for b, qkv in states.qkv.items()} for i in (1, 2)]


# Comparing ---------------------------------------------------------------------------------------------------------


@dataclass
class ComparedMemory:
    """The fresh memory, which asks the stale one the same things and notes how much of the answers is the same."""

    fresh: RowMemory
    stale: RowMemory
    overlaps_P: list[Tensor] = field(default_factory=list)
    is_empty: bool = False

    def search(self, layer: int, queries_BHTD: Tensor, *, n_chunks: int) -> Retrieval:
        found = self.fresh.search(layer, queries_BHTD, n_chunks=n_chunks)
        other = self.stale.search(layer, queries_BHTD, n_chunks=n_chunks)
        self.overlaps_P.append(shares_in_common(found.chunks_BHTC, other.chunks_BHTC))
        return found


def shares_in_common(first_BHTC: Tensor, second_BHTC: Tensor) -> Tensor:
    """Which share of the chunks that one search found the other found too, over all queries of a row [B]."""
    there_BHTC = first_BHTC != -1
    common_BHTC = (first_BHTC[..., :, None] == second_BHTC[..., None, :]).any(-1) & there_BHTC
    return common_BHTC.flatten(1).sum(1) / there_BHTC.flatten(1).sum(1)


def key_cosines(first: RowMemory, second: RowMemory) -> list[float]:
    """Mean cosine similarity of each row's keys over layers, heads and tokens; of equal keys it is exactly 1."""
    means = []
    for layer in first.memory_layers:
        a, b = first.keys[layer].double(), second.keys[layer].double()
        # The root of a product, not a product of roots: for equal keys it is their squared length itself.
        cosine_BGN = (a * b).sum(-1) / ((a * a).sum(-1) * (b * b).sum(-1)).sqrt()
        means.append(cosine_BGN.flatten(1).mean(1))
    return torch.stack(means).mean(0).tolist()


def same_states(first: RowMemory, second: RowMemory) -> bool:
    """Whether keys and values are the same, bit for bit."""
    stores = ((first.keys, second.keys), (first.values, second.values))
    return all(torch.equal(a[layer], b[layer]) for a, b in stores for layer in first.memory_layers)


def _row(step: int, compared: dict[str, dict]) -> dict:
    summaries = {name: _summary(found) for name, found in compared.items()}
    return {"step": step, **summaries, "longmem_is_exact": compared["longmem"]["exact"]}


def _summary(found: dict) -> dict:
    """Numbers of one system at one step, with intervals over probe texts."""
    fresh_P, stale_P = np.array(found["fresh"]), np.array(found["stale"])
    measures = {
        "cosine": lambda choice: np.array(found["cosine"])[choice].mean(-1),
        "overlap": lambda choice: np.array(found["overlap"])[choice].mean(-1),
        "perplexity_stale": lambda choice: np.exp(stale_P[choice].mean(-1)),
        "perplexity_fresh": lambda choice: np.exp(fresh_P[choice].mean(-1)),
        "change": lambda choice: np.exp((stale_P - fresh_P)[choice].mean(-1)) - 1,
    }
    summary: dict = {}
    for name, statistic in measures.items():
        low, high = bootstrap(statistic, len(fresh_P))
        summary |= {name: float(statistic(np.arange(len(fresh_P)))), f"{name}_low": low, f"{name}_high": high}
    return summary | {"n": len(fresh_P)}


def table(result: dict) -> list[list[str]]:
    """Rows for people: of each measured step and system, how much of the memory of the start still holds."""
    rows = [["step", "system", "cosine", "same chunks", "perplexity stale", "fresh", "change"]]
    for point in result["curve"]:
        for name in result["systems"]:
            row = point[name]
            shares = [f"{row['cosine']:.4f}", f"{100 * row['overlap']:.1f} %"]
            perplexities = [f"{row['perplexity_stale']:.2f}", f"{row['perplexity_fresh']:.2f}"]
            rows.append([str(point["step"]), name, *shares, *perplexities, f"{100 * row['change']:+.2f} %"])
    return rows
