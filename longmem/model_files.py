"""Loading and saving a LongMem model: whole, or the SideNet alone beside the backbone that it was trained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import cached_file

from longmem.backbone import load_backbone
from longmem.config import LongMemConfig, choose_device, preset_settings
from longmem.errors import BankMismatchError, LongMemError
from longmem.hub import push_to_hub

SIDENET_PREFIX = "sidenet."


class ModelFiles:
    """What `LongMemForCausalLM` is made from and saved as; mixed into it before `PreTrainedModel`."""

    config: LongMemConfig
    tokenizer: PreTrainedTokenizerFast | None

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str | Path | PreTrainedModel,
        *,
        memory_layers: Sequence[int] | None = None,
        preset: str = "measured",
        **options: Any,
    ) -> Self:
        """A fresh SideNet on a frozen causal language model from the hub, a folder (see `load_backbone`), or loaded.

        Args:
            memory_layers: 0-based; by default the one at the paper's depth, 17 of 24.
            preset: "paper" for the settings of the paper, or "measured" for those that did best here.
            options: any setting of `LongMemConfig`, before those of the preset; `window` defaults to the backbone's
                positions, at most 1,024.
        """
        if isinstance(name_or_path, PreTrainedModel):
            causal_lm, name = name_or_path, name_or_path.name_or_path or None
        else:
            causal_lm, name = load_backbone(name_or_path), str(name_or_path)
        options.setdefault("window", _default_window(causal_lm.config, options.get("chunk_size", 4)))
        if memory_layers is None:
            memory_layers = [causal_lm.config.num_hidden_layers * 17 // 24]
        config = LongMemConfig(causal_lm.config, name, memory_layers, **preset_settings(preset) | options)
        model = cls(config, causal_lm)
        if name is not None:
            model.tokenizer = _load_tokenizer(name)
        return model.freeze()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *model_args: Any,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        backbone: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a saved model with its tokenizer, frozen and in eval mode, on the best device there is.

        Args:
            device: "cpu", "cuda", "mps", or None for the best; `device_reason` says why.
            dtype: of the weights; by default bf16 on a GPU and fp32 elsewhere.
            backbone: for a SideNet that was saved alone: its backbone, loaded and of no other model.

        Raises:
            LongMemError: no model is there, or the device is not.
            BankMismatchError: a SideNet alone was trained on another backbone.
        """
        place, reason = choose_device(device)
        if dtype is None:
            dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
        path = str(pretrained_model_name_or_path)
        try:
            config = kwargs.pop("config", None) or LongMemConfig.from_pretrained(path)
            if getattr(config, "sidenet_only", False):
                model = cls._from_sidenet(path, config, dtype, backbone)
            else:
                model = super().from_pretrained(path, *model_args, config=config, dtype=dtype, **kwargs)
        except OSError as error:
            said = f"model is {path!r}; it is neither a folder with a LongMem model nor a hub id"
            raise LongMemError(f"{said} ({str(error).splitlines()[0]})") from error
        model.tokenizer = _load_tokenizer(path) or model.tokenizer
        model.device_reason = reason
        model.eval()
        return model.to(place).freeze()

    @classmethod
    def _from_sidenet(
        cls, path: str, config: LongMemConfig, dtype: torch.dtype | str, causal_lm: PreTrainedModel | None
    ) -> Self:
        """A SideNet saved alone, joined to the backbone it was trained on."""
        if causal_lm is None:
            causal_lm = load_backbone(config.backbone_name_or_path)
            causal_lm = causal_lm if dtype == "auto" else causal_lm.to(dtype)
        model = cls(config, causal_lm).to(causal_lm.dtype)
        weights = load_file(cached_file(path, "model.safetensors"))
        missing, unexpected = model.load_state_dict(weights, strict=False)
        missing = [name for name in missing if name.startswith(SIDENET_PREFIX)]
        if missing or unexpected:
            raise LongMemError(f"model is {path!r}; its SideNet does not fit: {(missing + list(unexpected))[:3]}.")
        if config.backbone_fingerprint != model.fingerprint:
            raise BankMismatchError(
                f"backbone is {config.backbone_name_or_path!r} with fingerprint {model.fingerprint}; the SideNet in "
                f"{path!r} was trained on {config.backbone_fingerprint}."
            )
        model.tokenizer = _load_tokenizer(config.backbone_name_or_path)
        return model

    def save_pretrained(
        self, save_directory: str | Path, *args: Any, with_backbone: bool = True, **kwargs: Any
    ) -> None:
        """Save the SideNet with its backbone and tokenizer, or the SideNet alone and the backbone's name.

        Raises:
            LongMemError: alone, but the backbone has no name to be loaded by.
        """
        if not with_backbone and self.config.backbone_name_or_path is None:
            raise LongMemError("with_backbone is False, but this backbone has no name or path to be loaded from again.")
        self.config.sidenet_only = not with_backbone
        self.config.backbone_fingerprint = self.fingerprint
        if not with_backbone:
            kwargs["state_dict"] = {k: v for k, v in self.state_dict().items() if k.startswith(SIDENET_PREFIX)}
        super().save_pretrained(str(save_directory), *args, **kwargs)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(str(save_directory))

    push_to_hub = push_to_hub


def _default_window(config: Any, chunk_size: int) -> int:
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window")]
    window = min([1024, *[limit for limit in limits if limit]])
    return window - window % (2 * chunk_size)


def _load_tokenizer(path: str) -> PreTrainedTokenizerFast | None:
    """The tokenizer saved with a model, if there is one."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError):
        return None
    # For some families transformers makes one without a word where there is none.
    return tokenizer if tokenizer("a", add_special_tokens=False)["input_ids"] else None
