"""Suffix identification: which of six passages begins the next chapter?

The task of ChapterBreak (Sun et al., NAACL 2022), without what gives the answer away: number and title of the chapter
are cut off all six passages and off the end of the prefix, all six have the same number of tokens, and none of the five
wrong ones, which begin other chapters of the same book, begins inside the prefix. The passage with the highest
log-probability wins; a tie counts as wrong. Chance is one in six.

Of the prefix, what fits in the window beside a passage is the local context; everything before is read into memory.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from longmem.documents import Document, EncodedDocument
from longmem.errors import LongMemError
from longmem.evaluation.chapters import Chapter, block_at, body_of, chapters_of, end_before, find_headings, is_heading
from longmem.evaluation.results import Items, Options, gains_in_accuracy, settings_of, share
from longmem.evaluation.systems import Memories, Systems
from longmem.training.data import read_packs

ALLOWED = ("backbone", "empty_bank", "sidenet_only", "longmem", "memtrm", "full_attention")
WITH_MEMORY = ("longmem", "memtrm")
SHORTER_PREFIXES = (512, 2_048)
NEGATIVES = 5
MOST_TOKENS = 128  # of a passage; at most half a window, so that some local context is left
MOST_BREAKS = 60


@dataclass(frozen=True)
class SuffixOptions(Options):
    """documents: txt, jsonl or jsonl.xz files, or ChapterBreak's own json.

    manifest: JSON lines with `title` and `chapter_offsets` (characters), one for each document in their order; without
    it headings are looked for. prefix_tokens: the longest prefix. with_headings: leave number and title where they
    are, to see how much they give away. breaks_per_book: at most; by default MOST_BREAKS are spread over the books.
    """

    documents: tuple[Path, ...] = ()
    manifest: Path | None = None
    prefix_tokens: int = 8_192
    with_headings: bool = False
    breaks_per_book: int | None = None
    read_overlap: int | None = None


@dataclass(frozen=True)
class Break:
    """A chapter break: the prefix, prefix_T, and the passages, candidates_NT, of which the first is the right one."""

    key: str
    prefix_T: Tensor
    candidates_NT: Tensor


# Measuring ---------------------------------------------------------------------------------------------------------


def measure_suffix(options: SuffixOptions) -> dict:
    """Measure, and return (and write) accuracy: `systems` with the longest prefix, `by_prefix` with all.

    Raises:
        LongMemError: no chapter break can be used, or the manifest is of other documents.
    """
    if options.prefix_tokens < 2:
        raise LongMemError(f"--prefix-tokens is {options.prefix_tokens}; it must be 2 at least.")
    systems = Systems(options.model, options.systems, read_overlap=options.read_overlap, allowed=ALLOWED)
    most = min(MOST_TOKENS, systems.window // 2)
    prefixes = [n for n in SHORTER_PREFIXES if n < options.prefix_tokens] + [options.prefix_tokens]
    settings = settings_of(options, "documents", "manifest", "with_headings", "breaks_per_book")
    items = Items("suffix", options, systems, settings | {"prefixes": prefixes, "most_tokens": most})
    skipped = Counter()
    books = [list(book) for book in _books(systems.model.tokenizer, options, most, skipped)]
    breaks = {b.key: b for b in spread(books, options)}
    if not breaks:
        reasons = "; ".join(f"{n} skipped: {why}" for why, n in skipped.items()) or "no chapter was found"
        raise LongMemError(f"documents hold no chapter break that can be used ({reasons}).")
    for key in items.each(breaks):
        items.add(key, measure_break(systems, breaks[key], prefixes))
    measured = list(items.found.values())
    by_prefix = [{"prefix": n, **_accuracy(systems, measured, n)} for n in prefixes]
    found = dict(by_prefix[-1]["systems"])
    if "full_attention" in systems.names and "full_attention" not in found:
        found |= _full_attention(systems, options.prefix_tokens)
    counted = {"usable": sum(map(len, books)), "measured": len(measured), "skipped": dict(skipped)}
    gains = by_prefix[-1]["gains"]
    return items.finish(found, gains=gains, by_prefix=by_prefix, breaks=counted, chance=1 / (1 + NEGATIVES))


def measure_break(systems: Systems, chapter_break: Break, prefixes: Sequence[int]) -> dict:
    """`scores`: by prefix and system, the log-probability of each passage, the right one first."""
    n_tokens = chapter_break.candidates_NT.shape[1]
    scores, without_memory = {}, {}
    for n in prefixes:
        local = min(n, systems.window - n_tokens)
        prefix_T = chapter_break.prefix_T[-n:]
        memories = systems.new_memories()
        if n > local:
            systems.read(memories, prefix_T[:-local])
        # Systems without memory see the same context whenever the window is full.
        known = without_memory.setdefault(local, {})
        names = [name for name in systems.names if name not in known and name != "full_attention"]
        found = passage_scores(systems, prefix_T[-local:], chapter_break.candidates_NT, memories, names)
        if "full_attention" in systems.names and n + n_tokens <= systems.trained_positions:
            found |= passage_scores(systems, prefix_T, chapter_break.candidates_NT, memories, ["full_attention"])
        known |= {name: found[name] for name in found if name not in (*WITH_MEMORY, "full_attention")}
        scores[str(n)] = found | known
    return {"break": chapter_break.key, "tokens": n_tokens, "scores": scores}


def passage_scores(
    systems: Systems, context_T: Tensor, candidates_NT: Tensor, memories: Memories, names: Collection[str]
) -> dict[str, list[float]]:
    """Log-probability of each passage after a context, by each of the systems that are named."""
    targets_NT = candidates_NT.to(systems.model.device)
    # The last token of the context predicts the first of the passage, so it goes with the rows.
    rows_NT = torch.cat([context_T[-1:].expand(len(candidates_NT), 1), candidates_NT[:, :-1]], dim=1)
    caches = systems.prefix(context_T[:-1].tolist(), memories, names)
    scores = {}
    for name, cache in caches.items():
        logits_NTV = systems.continued({name: cache}, rows_NT, memories)[name].float()
        log_p_NT = logits_NTV.log_softmax(-1).gather(2, targets_NT[:, :, None])[..., 0]
        scores[name] = log_p_NT.sum(dim=1).tolist()
    return scores


def is_right(scores: Sequence[float]) -> bool:
    """Whether the first passage is more probable than each of the others."""
    return all(scores[0] > other for other in scores[1:])


def _accuracy(systems: Systems, items: Sequence[dict], prefix: int) -> dict:
    names = [name for name in systems.names if all(name in item["scores"][str(prefix)] for item in items)]
    right = {name: [is_right(item["scores"][str(prefix)][name]) for item in items] for name in names}
    found = {name: share("accuracy", right[name]) for name in names}
    return {"systems": found, "gains": gains_in_accuracy(right, found, systems.controls, "accuracy")}


def _full_attention(systems: Systems, prefix_tokens: int) -> dict:
    reason = f"not run (trained positions: {systems.trained_positions}; tokens of prefix: {prefix_tokens})"
    return {"full_attention": {"accuracy": None, "reason": reason, "n": 0}}


def table(result: dict) -> list[list[str]]:
    """Rows for people: system, accuracy with each prefix, interval with the longest, n."""
    rows = [["system", *(f"{part['prefix']} tokens" for part in result["by_prefix"]), "95 %", "n"]]
    for name, row in result["systems"].items():
        parts = [part["systems"].get(name) for part in result["by_prefix"]]
        shares = ["-" if part is None else f"{100 * part['accuracy']:.1f} %" for part in parts]
        interval = row.get("reason")
        if interval is None:
            interval = f"{100 * row['accuracy_low']:.1f} to {100 * row['accuracy_high']:.1f}"
        rows.append([name, *shares, interval, str(row["n"])])
    if gain := result["gains"].get("better_control"):
        blank = [""] * (len(result["by_prefix"]) - 1)
        difference, *interval = (f"{100 * gain[name]:+.1f}" for name in ("difference", "low", "high"))
        found = [f"{difference} %", " to ".join(interval), str(gain["n"])]
        rows.append([f"longmem against {gain['control']}", *blank, *found])
    return rows


# Chapter breaks ----------------------------------------------------------------------------------------------------


def spread(books: Sequence[Sequence[Break]], options: SuffixOptions) -> list[Break]:
    """The breaks to measure: with `full` all, else one of each book in turn until there are enough."""
    if options.full:
        return list(chain.from_iterable(books))
    rng = np.random.default_rng(options.seed)
    shuffled = [[book[i] for i in rng.permutation(len(book))][: options.breaks_per_book] for book in books]
    in_turn = [b for turn in zip_longest(*shuffled) for b in turn if b is not None]
    most = options.max_items or (MOST_BREAKS if options.breaks_per_book is None else None)
    chosen = {b.key for b in in_turn[:most]}
    return [b for b in chain.from_iterable(books) if b.key in chosen]


def _books(
    tokenizer: PreTrainedTokenizerFast, options: SuffixOptions, most: int, skipped: Counter
) -> Iterator[Iterator[Break]]:
    """The breaks of each book, or, of ChapterBreak, of each work."""
    own_format = [path for path in options.documents if Path(path).suffix == ".json"]
    packs = [path for path in options.documents if Path(path).suffix != ".json"]
    manifest = None if options.manifest is None else read_manifest(options.manifest)
    count = 0
    for count, (title, text) in enumerate(read_packs(packs), start=1):
        document = Document.from_text(title, text)
        offsets = find_headings(document.text) if manifest is None else _offsets(manifest, count, document)
        chapters = chapters_of(document.text, offsets)
        name = f"{count}. {document.name}"
        yield book_breaks(name, document.encode(tokenizer), chapters, options, most, skipped)
    if manifest is not None and len(manifest) > count:
        raise LongMemError(f"--manifest has {len(manifest)} lines; documents hold {count}: each must have its line.")
    for path in own_format:
        for work, examples in read_chapterbreak(path):
            yield chapterbreak_breaks(work, examples, tokenizer, options, most, skipped)


def book_breaks(
    name: str,
    encoded: EncodedDocument,
    chapters: Sequence[Chapter],
    options: SuffixOptions,
    most: int,
    skipped: Counter,
) -> Iterator[Break]:
    """The breaks of a book that can be used; `skipped` counts the others by reason."""
    stops_T, ids_T = encoded.spans[:, 1].contiguous(), encoded.token_ids

    def token_at(character: int) -> int:
        return int(torch.searchsorted(stops_T, character, right=True))

    starts = [token_at(c.heading if options.with_headings else c.body) for c in chapters]
    ends = [token_at(c.heading if options.with_headings else c.end_before) for c in chapters]
    long_enough = [end - start >= most for start, end in zip(starts, [*ends, len(ids_T)][1:], strict=True)]
    for i in range(1, len(chapters)):
        end, first = ends[i], ends[i] - options.prefix_tokens
        others = [
            start
            for j, start in enumerate(starts)
            if j != i and long_enough[j] and (start + most <= first or start >= end)
        ]
        if first < 0:
            skipped[f"fewer than {options.prefix_tokens} tokens before it"] += 1
        elif not long_enough[i]:
            skipped[f"the next chapter is shorter than {most} tokens"] += 1
        elif len(others) < NEGATIVES:
            skipped[f"fewer than {NEGATIVES} other chapters outside the prefix"] += 1
        else:
            rng = np.random.default_rng([options.seed, i])
            chosen = [starts[i], *rng.choice(others, NEGATIVES, replace=False)]
            candidates = torch.stack([ids_T[start : start + most] for start in chosen])
            yield Break(f"{name}, character {chapters[i].heading}", ids_T[first:end], candidates)


def read_manifest(path: Path) -> list[dict]:
    """The lines of a manifest. Errors: LongMemError where it cannot be read or a line lacks a field."""
    try:
        rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise LongMemError(f"--manifest is {path}; it cannot be read as JSON lines ({error}).") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or "title" not in row or not isinstance(row.get("chapter_offsets"), list):
            raise LongMemError(f'--manifest: line {number} of {path} must have "title" and a list "chapter_offsets".')
    return rows


def _offsets(manifest: Sequence[dict], number: int, document: Document) -> list[int]:
    """Where the chapters of document `number` (from 1) begin. Errors: LongMemError if the manifest is of others."""
    if number > len(manifest):
        raise LongMemError(f"--manifest has {len(manifest)} lines; there is none for document {number}.")
    title, offsets = " ".join(str(manifest[number - 1]["title"]).split()), manifest[number - 1]["chapter_offsets"]
    if title != document.name:
        raise LongMemError(
            f"--manifest: line {number} is about {title!r}, but document {number} is {document.name!r}: titles and "
            "order must be the same."
        )
    for offset in offsets:
        inside = isinstance(offset, int) and 0 <= offset < len(document.text)
        if not inside or (offset and document.text[offset - 1] != "\n"):
            raise LongMemError(
                f"--manifest: in {title!r} no line begins at character {offset!r}, the offset of a chapter."
            )
    return sorted(offsets)


def read_chapterbreak(path: Path) -> Iterator[tuple[str, list[dict]]]:
    """ChapterBreak's own file: (work, its examples).

    {"pg19" and "ao3": {work: [{"ctx": text before the break, "pos": the right passage, "negs": five wrong ones}]}}, or
    one of the two alone. Headings are cut where they are blocks of their own. Errors: LongMemError.
    """
    try:
        parts = json.loads(Path(path).read_text(encoding="utf-8"))
        if all(isinstance(works, list) for works in parts.values()):
            parts = {"": parts}
        works = {f"{part} {work}".strip(): found for part in parts for work, found in parts[part].items()}
        for found in works.values():
            for example in found:
                texts = [example["ctx"], example["pos"], *example["negs"]]
                if not all(isinstance(text, str) for text in texts):
                    raise TypeError("ctx, pos and negs must be text")
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise LongMemError(
            f'documents: {path} is not a file of ChapterBreak, {{work: [{{"ctx", "pos", "negs"}}]}} ({error!r}).'
        ) from error
    yield from works.items()


def chapterbreak_breaks(
    work: str,
    examples: Sequence[dict],
    tokenizer: PreTrainedTokenizerFast,
    options: SuffixOptions,
    most: int,
    skipped: Counter,
) -> Iterator[Break]:
    """Like `book_breaks`, of examples of ChapterBreak; passages are cut to the length of the shortest."""

    def tokens(text: str) -> Tensor:
        return torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=torch.long)

    for number, example in enumerate(examples, start=1):
        context, passages = example["ctx"], [text.strip() for text in (example["pos"], *example["negs"])]
        if not options.with_headings:
            context = context[: end_before(context, len(context))]
            passages = [text[body_of(text, 0) :] if is_heading(block_at(text, 0)) else text for text in passages]
        encoded = Document.from_text(work, context.rstrip() + "\n\n").encode(tokenizer)
        prefix_T = encoded.token_ids[-options.prefix_tokens :]
        prefix = encoded.document.text[encoded.spans[-len(prefix_T), 0] :]
        others = [text for text in passages[1:] if text[:100] not in prefix][:NEGATIVES]
        chosen = [tokens(text) for text in [passages[0], *others]]
        n_tokens = min(most, *map(len, chosen))
        if len(prefix_T) < options.prefix_tokens:
            skipped[f"fewer than {options.prefix_tokens} tokens before it"] += 1
        elif len(others) < NEGATIVES:
            skipped[f"fewer than {NEGATIVES} other chapters outside the prefix"] += 1
        elif not n_tokens:
            skipped["a passage without text"] += 1
        else:
            yield Break(f"{work}, {number}", prefix_T, torch.stack([ids[:n_tokens] for ids in chosen]))
