"""What several test modules share: a tokenizer and a model small enough to be made inside the test run."""

import os
import sys
from collections.abc import Iterator

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, SmolLM3Config, SmolLM3ForCausalLM

from longmem.model import LongMemForCausalLM

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the processes share the cores: contending threads are slower than one

SPLIT = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CORPUS = [
    "The lighthouse keeper wrote the name of every ship in a long ledger.",
    "In the morning the ship returned, and the keeper read the ledger again.",
    "Review: a warm and funny story Sentiment: positive.\nReview: a long and cold story Sentiment: negative.\n",
    "Once there were 12 houses by the sea; 7 of them stood empty in the winter of 1907.\n\n",
    "“Where is she?” the keeper asked. Élodie smiled: the café was closed.",
]


def make_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 384 tokens built as the bundled one: id 0 `<|endoftext|>` (bos, eos), id 1 `<|pad|>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
    )


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """The one of `make_tiny_tokenizer`."""
    return make_tiny_tokenizer()


def tiny_smollm3(vocab_size: int = 384, window: int = 32) -> SmolLM3ForCausalLM:
    """A random SmolLM3 of 4 layers with grouped queries; layers 1 and 3 have no rotary embedding."""
    config = SmolLM3Config(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        no_rope_layers=[1, 0, 1, 0],
        max_position_embeddings=window,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    return SmolLM3ForCausalLM(config).eval()


def make_tiny_model(tiny_tokenizer: PreTrainedTokenizerFast) -> LongMemForCausalLM:
    """A random LongMem of fp32 weights: window 32, memory layers 1 and 3."""
    model = LongMemForCausalLM.from_backbone(
        tiny_smollm3(len(tiny_tokenizer)),
        memory_layers=[1, 3],
        window=32,
        retrieved_tokens=16,
        memory_size=4096,
        initialization="paper",
    )
    model.tokenizer = tiny_tokenizer
    return model.eval()


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer) -> LongMemForCausalLM:
    """The one of `make_tiny_model`; nothing may train it."""
    return make_tiny_model(tiny_tokenizer)


@pytest.fixture(autouse=True)
def _precision_of_its_own() -> Iterator[None]:
    """accelerate keeps the precision of the first training of a process for all that follow: not beyond a test."""
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)
