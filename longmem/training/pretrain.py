"""Train a small backbone from nothing: SmolLM3 without positions in its memory layers (NoPE), or another known family.

Usage: `python -m longmem train backbone --config cpu ...`, or `python -m longmem.training.pretrain CONFIG`.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from longmem.backbone import FAMILIES, load_backbone
from longmem.errors import TrainingDataError, UnknownFamilyError
from longmem.induction import prefix_matching
from longmem.training.data import be_one_worker, read_packs, tokenize_packs, train_tokenizer
from longmem.training.rows import IGNORED, BackboneRows, RowMixture
from longmem.training.run import Run, make_optimizers, mean_over_processes, prepare_folder, set_learning_rate
from longmem.training.settings import run_as_module
from longmem.training.throughput import flops_per_token, matrix_rate


@dataclass
class BackboneTraining:
    """Everything a run depends on; a TOML file sets any of these (see configs/backbone-cpu.toml)."""

    output: str = "runs/backbone"
    start_from: str | None = None
    packs: list[str] = field(default_factory=list)
    pack_shares: list[float] = field(default_factory=list)
    max_characters: int | None = None
    tokenizer: str | None = None
    vocab_size: int = 8192
    family: str = "smollm3"
    layers: int = 8
    hidden: int = 256
    intermediate: int = 688
    heads: int = 4
    kv_heads: int | None = None
    nope_layers: list[int] = field(default_factory=lambda: [4, 5, 7])
    window: int = 512
    batch_rows: int = 8
    total_tokens: int = 20_000_000
    total_minutes: float | None = None
    max_minutes: float | None = None
    dense_share: float = 0.45
    later: float = 0.4
    repeated: float = 0.25
    random_facts: float = 0.2
    facts: float = 0.1
    demonstrations: float = 0.0
    matrix_lr: float = 0.02
    other_lr: float = 3e-3
    weight_decay: float = 0.01
    warmup: int = 100
    decay_from: float = 0.6
    checkpoint_minutes: float = 10.0
    log_every: int = 20
    probe_every: int = 250
    workers: int = 0
    compile: bool = True
    mixed_precision: str = "bf16"
    seed: int = 1
    resume: bool = False


def build_backbone(settings: BackboneTraining, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A fresh model of a family, or the one at `start_from` to be trained further.

    `kv_heads` is for families that share keys and values among query heads; `nope_layers` is for SmolLM3, whose
    `no_rope_layers` is 1 for rotary layers and 0 for NoPE layers. Everything else is the family's default.

    Raises:
        UnknownFamilyError: longmem does not know the family.
    """
    if settings.start_from:
        model = load_backbone(settings.start_from).float().requires_grad_(True)
        model.config.use_cache = False
        return model
    if settings.family not in FAMILIES:
        raise UnknownFamilyError(f"family is {settings.family!r}; longmem reads {', '.join(sorted(FAMILIES))}.")
    config = AutoConfig.for_model(
        settings.family,
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        tie_word_embeddings=True,
        use_cache=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **_settings_of_family(settings),
    )
    torch.manual_seed(settings.seed)
    return AutoModelForCausalLM.from_config(config)


def _settings_of_family(settings: BackboneTraining) -> dict[str, object]:
    """What only some configurations have, under the names that they have for it."""
    known = AutoConfig.for_model(settings.family)
    given = {
        "intermediate_size": settings.intermediate,
        "num_key_value_heads": settings.kv_heads or settings.heads,
        "max_position_embeddings": settings.window,
        "head_dim": settings.hidden // settings.heads,
    }
    if settings.family == "gpt2":
        given["n_inner"] = settings.intermediate
    if settings.family == "smollm3":
        given["rope_parameters"] = {"rope_type": "default", "rope_theta": 10_000.0}
        given["no_rope_layers"] = [0 if i in settings.nope_layers else 1 for i in range(settings.layers)]
    return {name: value for name, value in given.items() if hasattr(known, name)}


class NextTokenLoss(nn.Module):
    """A language model with its loss in one graph, so that a compiler can fuse the two.

    Returns: the mean cross entropy over all taught tokens (of all processes), and (detached) the sums and counts over
    the asked and the other tokens, fp32 [4]: asked sum, asked count, text sum, text count.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, labels: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        logits_BTV = self.model(input_ids=input_ids, use_cache=False).logits
        token_BT = nn.functional.cross_entropy(
            logits_BTV.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        ).view_as(labels)
        taught_BT = labels != IGNORED
        asked_BT, text_BT = taught_BT & asked, taught_BT & ~asked
        fixed_BT = token_BT.detach()
        parts = [(fixed_BT * m).sum() if i == 0 else m.sum().float() for m in (asked_BT, text_BT) for i in range(2)]
        return token_BT.sum() / mean_over_processes(taught_BT.sum()), torch.stack(parts)


def _tokenizer(settings: BackboneTraining) -> PreTrainedTokenizerFast:
    if settings.tokenizer or settings.start_from:
        return PreTrainedTokenizerFast.from_pretrained(settings.tokenizer or settings.start_from)
    folder = Path(settings.output) / "tokenizer"
    with PartialState().main_process_first():
        if not folder.exists():
            texts = (text for pack in settings.packs for _, text in read_packs([pack], 24_000_000))
            part = folder.with_name("tokenizer.part")
            train_tokenizer(texts, settings.vocab_size).save_pretrained(part)
            part.rename(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def _rows(settings: BackboneTraining, tokenizer: PreTrainedTokenizerFast) -> BackboneRows:
    cache = Path(settings.output).parent / "cache"
    corpora = [
        tokenize_packs([pack], tokenizer, cache_dir=cache, max_characters=settings.max_characters)
        for pack in settings.packs
    ]
    rows = settings.total_tokens // settings.window
    return BackboneRows(
        corpora,
        settings.pack_shares or [float(len(c.ids)) for c in corpora],
        tokenizer,
        length=settings.window,
        rows=rows,
        dense_rows=int(rows * settings.dense_share),
        mixture=RowMixture(settings.repeated, settings.random_facts, settings.facts, settings.demonstrations),
        later=settings.later,
        seed=settings.seed,
    )


def pretrain(settings: BackboneTraining) -> Path:
    """Train, checkpoint, and write the model and its tokenizer to `output`/model. Returns that folder."""
    if not settings.packs:
        raise TrainingDataError("packs: no training data was given.")
    prepare_folder(settings.output, resume=settings.resume, settings=settings)
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision, dynamo_backend="inductor" if settings.compile else "no"
    )
    tokenizer = _tokenizer(settings)
    rows = _rows(settings, tokenizer)
    model = build_backbone(settings, tokenizer)
    optimizers = make_optimizers(
        model, matrix_lr=settings.matrix_lr, other_lr=settings.other_lr, weight_decay=settings.weight_decay
    )
    prepared, *optimizers = accelerator.prepare(NextTokenLoss(model), *optimizers)
    batch_rows = settings.batch_rows * accelerator.num_processes
    run = Run(
        settings.output,
        accelerator,
        total_steps=len(rows) // batch_rows,
        total_minutes=settings.total_minutes,
        max_minutes=settings.max_minutes,
        checkpoint_minutes=settings.checkpoint_minutes,
    )
    if settings.resume:
        run.resume()
    run.flops_per_token = flops_per_token(model, settings.window)
    step_tokens = settings.batch_rows * settings.window
    run.matrix_rate = matrix_rate(model, step_tokens, accelerator.device, settings.mixed_precision)
    loader = accelerator.prepare(
        DataLoader(
            Subset(rows, range(run.step * batch_rows, len(rows))),
            batch_size=settings.batch_rows,
            num_workers=settings.workers,
            drop_last=True,
            worker_init_fn=be_one_worker,
        )
    )
    _train(settings, run, accelerator, prepared, model, optimizers, loader)
    run.save()
    folder = Path(settings.output) / "model"
    if accelerator.is_main_process:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def _train(settings, run, accelerator, prepared, model, optimizers, loader) -> None:
    """The loop: one optimizer step a batch, a log line every `log_every` steps, head scores every `probe_every`."""
    sums = torch.zeros(5, device=accelerator.device)
    run.begin()
    run.log(flops_per_token=run.flops_per_token, matrix_rate=run.matrix_rate)
    for batch in loader:
        if run.done():
            break
        factor = set_learning_rate(
            optimizers, run.step, run.progress, warmup=settings.warmup, decay_from=settings.decay_from
        )
        loss, parts = prepared(batch["input_ids"], batch["labels"], batch["asked"])
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        run.advance(batch["input_ids"].numel() * accelerator.num_processes)
        sums += torch.cat([loss.detach().view(1), parts])
        if run.step % settings.log_every == 0:
            loss, asked, n_asked, text, n_text = accelerator.reduce(sums.to(accelerator.device)).tolist()
            steps = settings.log_every * accelerator.num_processes
            run.log(loss=loss / steps, asked_loss=asked / max(1, n_asked), text_loss=text / n_text, lr=factor)
            sums.zero_()
        if run.step % settings.probe_every == 0:
            scores = prefix_matching(model, length=settings.window)
            run.log(prefix_matching=[[round(v, 3) for v in layer] for layer in scores.tolist()])
        if run.checkpoint_due():
            run.save()
    run.bar.close()


if __name__ == "__main__":
    run_as_module(__doc__, BackboneTraining, "backbone", pretrain, "start_from", "family")
