"""Training text: packs of documents, read compressed, tokenised once by all cores, and kept as one array of token ids.

A pack is a `.jsonl` or `.jsonl.xz` file of `{"title", "text"}` lines, a `.txt` file, or a folder of text files.
"""

import hashlib
import json
import lzma
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import PartialState
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from longmem.errors import TrainingDataError

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
RESERVED = tuple(f"<|reserved_{i}|>" for i in range(6))
# Words with their leading space, single digits, runs of punctuation, white space: no token mixes them.
SPLIT_PATTERN = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Texts are tokenised so many characters at a time: documents enough for all cores, in one or two gigabytes of memory.
BATCH_CHARACTERS = 16_000_000


def read_pack(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield (title, text) of every document of one pack, in order.

    Raises:
        TrainingDataError: the path does not exist or is of an unknown kind, or a line is not as it should be.
    """
    path = Path(path)
    if path.is_dir():
        for file in sorted(path.rglob("*.txt")):
            yield file.stem, _read_text(file)
    elif path.name.endswith((".jsonl", ".jsonl.xz")) and path.is_file():
        opener = lzma.open if path.suffix == ".xz" else open
        try:
            with opener(path, "rt", encoding="utf-8-sig") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        yield _pack_row(path, number, line)
        except UnicodeDecodeError as error:
            raise TrainingDataError(f"data: {path} is not in UTF-8 ({error.reason}): save it as UTF-8.") from error
        except (lzma.LZMAError, EOFError) as error:
            raise TrainingDataError(f"data: {path} is not a whole .xz file ({error}).") from error
    elif path.suffix == ".txt" and path.is_file():
        yield path.stem, _read_text(path)
    else:
        raise TrainingDataError(f"data: {path} is not a .jsonl, .jsonl.xz or .txt file and not a folder of text files.")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TrainingDataError(f"data: {path} is not in UTF-8 ({error.reason}): save it as UTF-8.") from error


def _pack_row(path: Path, number: int, line: str) -> tuple[str, str]:
    """Title and text of one line; a document without a title is called by its line."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise TrainingDataError(f"data: line {number} of {path} is not JSON ({error}).") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise TrainingDataError(
            f'data: line {number} of {path} has no "text"; a line is {{"title": ..., "text": ...}}.'
        )
    return str(row.get("title") or f"line {number}"), row["text"]


def read_packs(paths: Iterable[str | Path], max_characters: int | None = None) -> Iterator[tuple[str, str]]:
    """Yield the documents of several packs until `max_characters` characters have been given out."""
    total = 0
    for path in paths:
        for title, text in read_pack(path):
            yield title, text
            total += len(text)
            if max_characters is not None and total >= max_characters:
                return


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8192) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE of the bundled model: single digits, no gaps between token offsets."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PAD, *RESERVED],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=PAD
    )


@dataclass(frozen=True)
class TokenCorpus:
    """Documents as one array of token ids.

    ids: uint16 or uint32 [tokens]; starts: int64 [documents + 1], document i is `ids[starts[i]:starts[i + 1]]`.
    """

    ids: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def document(self, index: int) -> np.ndarray:
        return self.ids[self.starts[index] : self.starts[index + 1]]


def tokenize_packs(
    paths: Sequence[str | Path],
    tokenizer: PreTrainedTokenizerFast,
    *,
    cache_dir: str | Path,
    max_characters: int | None = None,
) -> TokenCorpus:
    """Tokenise packs once and keep the result in `cache_dir`, keyed by tokenizer, contents of the files and limit."""
    key = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
    for path in paths:
        for file in sorted(Path(path).rglob("*.txt")) if Path(path).is_dir() else [Path(path)]:
            key.update(_digest(file))
    key.update(str(max_characters).encode())
    folder = Path(cache_dir) / key.hexdigest()[:16]
    with PartialState().main_process_first():
        if not folder.exists():
            part = folder.with_name(f"{folder.name}.part")
            _tokenize_into(part, read_packs(paths, max_characters), tokenizer)
            part.rename(folder)
    return TokenCorpus(np.load(folder / "ids.npy", mmap_mode="r"), np.load(folder / "starts.npy"))


def _digest(path: Path) -> bytes:
    """SHA-256 of a file. Errors: TrainingDataError where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise TrainingDataError(f"data: {path} cannot be read ({error.strerror}).") from error


def _tokenize_into(folder: Path, documents: Iterable[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> None:
    """Write ids.npy and starts.npy."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    dtype = np.uint16 if len(tokenizer) <= 65_536 else np.uint32
    parts, lengths = [], []
    for batch in _batches(text for _, text in documents):
        for encoding in tokenizer.backend_tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            parts.append(np.asarray(encoding.ids, dtype=dtype))
            lengths.append(len(encoding.ids))
    if not parts:
        raise TrainingDataError("data: the packs hold no document.")
    np.save(folder / "ids.npy", np.concatenate(parts))
    np.save(folder / "starts.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in groups of BATCH_CHARACTERS or a little more."""
    batch, characters = [], 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def be_one_worker(_number: int) -> None:
    """What a worker of a data loader begins with: its parent's tokenising threads are not there to be waited for."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
