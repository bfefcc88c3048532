"""Which passage begins the next chapter: the passages are fair, and what is counted is right."""

import json
import shutil

import pytest
import torch

from longmem.documents import Document
from longmem.errors import LongMemError
from longmem.evaluation import suffix_identification as suffix
from longmem.evaluation.results import Items
from longmem.evaluation.suffix_identification import (
    SuffixOptions,
    chapters_of,
    find_headings,
    is_heading,
    is_right,
    measure_suffix,
    read_chapterbreak,
    table,
)
from longmem.evaluation.systems import Systems

NUMBERS = "I II III IV V VI VII VIII IX X XI XII".split()
NAMES = "Anna Boris Clara David Emma Felix Greta Hugo Ida Jonas Karla Leo".split()
PREFIX = 64


def prose(name: str) -> str:
    return f"{name} read in the ledger what the keeper wrote of {name}. " * 3 + f"\n\nThen {name} went to the ship."


def book(n: int = 12) -> str:
    chapters = (f"CHAPTER {NUMBERS[i]}.\n\nTHE SHIP RETURNED.\n\n{prose(NAMES[i])}" for i in range(n))
    return "\n\n".join(chapters)


@pytest.fixture(scope="module")
def saved_model(tiny_model, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_model.save_pretrained(folder)
    return str(folder)


def pack(folder, *texts: str):
    path = folder / "books.jsonl"
    path.write_text("\n".join(json.dumps({"title": f"Book {i}", "text": text}) for i, text in enumerate(texts)))
    return path


def manifest(folder, *rows: dict):
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def options(*documents, model: str = "", **more: object) -> SuffixOptions:
    return SuffixOptions(model, documents=documents, **{"prefix_tokens": PREFIX} | more)


def breaks_of(tokenizer, *documents, most: int = 16, **more: object) -> tuple[list[suffix.Break], dict]:
    skipped = suffix.Counter()
    books = suffix._books(tokenizer, options(*documents, **more), most, skipped)
    return [b for found in books for b in found], dict(skipped)


# Headings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "heading",
    [
        "CHAPTER IV",
        "Chapter 3. The Storm",
        "Chapter 3. The storm broke.",
        "XII.",
        "ii",
        "2. In the Toils",
        "BOOK THE SECOND",
        "CHAPTER TWENTY-ONE",
        "CHAPTER II.AN ILL-OMEN.",
        "CHAPTER III.--AMONG THE PASSENGERS.",
        "CHAPTER III\nA GOOD REPUBLICAN",
        "EPILOGUE",
        "CHAPTER SIX.\n\nTHE REAPPEARANCE OF DIGBY'S EVIL GENIUS--A TRAWLING EXPEDITION--THE GUNS OF THE OLD FORT.",
        'III\n\n"THE GAME BUTCHERS"',
        "Chapter 2\n\nThe Dog-fancier",
        "PART IV\n\nA JEST TOO DEEP FOR LAUGHTER\n\nCHAPTER I\n\nThe Great Seal.",
    ],
)
def test_number_and_title_are_cut_and_nothing_else(heading):
    text = f'It was over.\n\n{heading}\n\n"Come!" said he, and they went down to the sea.\n\nIt was cold.'
    [chapter] = chapters_of(text, find_headings(text))
    assert text[chapter.body :].startswith('"Come!" said he')
    assert text[: chapter.end_before] == "It was over.\n\n"
    assert text[chapter.heading :].startswith(heading)


@pytest.mark.parametrize(
    "block",
    [
        "I went home.",
        "Part of it was gone.",
        "Letter five was the last that came.",
        "C. B.",
        "10. The Board, suggesting a week.",
        '"Yes."',
        "It was a bright hot day in June.",
    ],
)
def test_prose_is_no_heading(block):
    assert not is_heading(block)


def test_what_announces_a_chapter_is_no_end_of_the_prefix(tmp_path, tiny_tokenizer):
    text = book().replace("CHAPTER IX.", "END OF BOOK I.\n\n* * *\n\nBOOK II.\n\nTHE SEA\n\nCHAPTER IX.")
    found, _ = breaks_of(tiny_tokenizer, pack(tmp_path, text))
    ends = [tiny_tokenizer.decode(b.prefix_T).rstrip()[-9:] for b in found]
    assert set(ends) == {"the ship."}


def test_headings_are_cut_from_all_passages_unless_asked_for(tmp_path, tiny_tokenizer):
    path = pack(tmp_path, book())
    without, _ = breaks_of(tiny_tokenizer, path)
    kept, _ = breaks_of(tiny_tokenizer, path, with_headings=True)
    assert len(without) == len(kept) > 5
    for passage in (tiny_tokenizer.decode(row) for b in without for row in b.candidates_NT):
        assert passage.split()[0] in NAMES
    for passage in (tiny_tokenizer.decode(row) for b in kept for row in b.candidates_NT):
        assert passage.startswith("CHAPTER")


# Fair passages -----------------------------------------------------------------------------------------------------


def test_the_right_passage_follows_the_prefix_and_the_others_begin_other_chapters(tmp_path, tiny_tokenizer):
    found, _ = breaks_of(tiny_tokenizer, pack(tmp_path, book()))
    for b in found:
        before = tiny_tokenizer.decode(b.prefix_T)
        first_words = [tiny_tokenizer.decode(row).split()[0] for row in b.candidates_NT]
        assert len(set(first_words)) == 6
        place = NAMES.index(first_words[0])
        assert before.rstrip().endswith(f"Then {NAMES[place - 1]} went to the ship.")


def test_all_six_passages_have_the_same_number_of_tokens(tmp_path, tiny_tokenizer, saved_model):
    path = pack(tmp_path, book())
    found, _ = breaks_of(tiny_tokenizer, path, most=10)
    assert {tuple(b.candidates_NT.shape) for b in found} == {(6, 10)}
    result = measure_suffix(options(path, model=saved_model, max_items=1))
    assert result["items"][0]["tokens"] == 16  # half a window of 32


def test_no_wrong_passage_begins_inside_the_prefix(tmp_path, tiny_tokenizer):
    ids = Document.from_text("book", book()).encode(tiny_tokenizer).token_ids.tolist()
    found, _ = breaks_of(tiny_tokenizer, pack(tmp_path, book()), prefix_tokens=400)
    outside = []
    for b in found:
        end = place_of(ids, b.prefix_T.tolist()) + 400
        for row in b.candidates_NT[1:].tolist():
            start = place_of(ids, row)
            outside.append(start + 16 <= end - 400 or start >= end)
    assert len(outside) >= 20
    assert all(outside)


def test_no_wrong_passage_reaches_into_the_prefix(tmp_path, tiny_tokenizer):
    text = book()
    part = text[text.index("Greta") : text.index("CHAPTER IX.")]  # from one chapter's beginning to a break
    n_tokens = len(tiny_tokenizer(part)["input_ids"]) - 3
    for seed in range(1, 7):
        found, _ = breaks_of(tiny_tokenizer, pack(tmp_path, text), prefix_tokens=n_tokens, seed=seed)
        [at_break] = [b for b in found if b.key.endswith(str(text.index("CHAPTER IX.")))]
        assert tiny_tokenizer.decode(at_break.candidates_NT[0]).startswith("Ida")
        assert not [row for row in at_break.candidates_NT if tiny_tokenizer.decode(row).startswith("Greta")]


def place_of(ids: list[int], part: list[int]) -> int:
    return next(i for i in range(len(ids)) if ids[i : i + len(part)] == part)


def test_breaks_that_cannot_be_used_are_counted_by_reason(tmp_path, tiny_tokenizer):
    short, few = "the next chapter is shorter than 16 tokens", "fewer than 5 other chapters outside the prefix"
    text = book(9).replace(prose("Emma"), "Gone.")
    found, skipped = breaks_of(tiny_tokenizer, pack(tmp_path, text, book(5)))
    assert (len(found), skipped) == (7, {short: 1, few: 4})
    chapter = len(Document.from_text("book", book(3)).encode(tiny_tokenizer).token_ids) // 3
    found, skipped = breaks_of(tiny_tokenizer, pack(tmp_path, book()), prefix_tokens=2 * chapter + 20)
    assert (len(found), skipped) == (9, {f"fewer than {2 * chapter + 20} tokens before it": 2})


def test_where_no_break_can_be_used_the_reasons_are_said(tmp_path, saved_model):
    with pytest.raises(LongMemError, match="fewer than 9999 tokens before it"):
        measure_suffix(options(pack(tmp_path, book()), model=saved_model, prefix_tokens=9999))
    with pytest.raises(LongMemError, match="no chapter was found"):
        measure_suffix(options(pack(tmp_path, prose("Anna")), model=saved_model))


def test_breaks_are_spread_evenly_over_books(tmp_path, saved_model):
    path = pack(tmp_path, book(12), book(8))

    def measured(**more: object) -> list[str]:
        result = measure_suffix(options(path, model=saved_model, **more))
        return [item["break"].split(",")[0] for item in result["items"]]

    assert measured(max_items=4) == ["1. Book 0"] * 2 + ["2. Book 1"] * 2
    assert measured(breaks_per_book=1) == ["1. Book 0", "2. Book 1"]
    assert len(measured(full=True)) > 12


# Manifest ----------------------------------------------------------------------------------------------------------


def test_a_manifest_names_chapters_that_no_pattern_finds(tmp_path, tiny_tokenizer):
    chapters = [f"of {name}, and more\n\n{prose(name)}" for name in NAMES]
    offsets = [sum(len(c) + 2 for c in chapters[:i]) for i in range(12)]
    path = pack(tmp_path, "\n\n".join(chapters))
    listed = manifest(tmp_path, {"title": "Book 0", "chapter_offsets": offsets})
    assert breaks_of(tiny_tokenizer, path) == ([], {})
    found, _ = breaks_of(tiny_tokenizer, path, manifest=listed)
    assert len(found) > 5
    assert {tiny_tokenizer.decode(row).split()[0] for b in found for row in b.candidates_NT} <= set(NAMES)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"title": "Book 1", "chapter_offsets": [0]}, {"title": "Book 0", "chapter_offsets": [0]}],
            "titles and order",
        ),
        ([{"title": "Book 0", "chapter_offsets": [0]}], "none for document 2"),
        ([{"title": f"Book {i}", "chapter_offsets": [0]} for i in range(3)], "3 lines; documents hold 2"),
        ([{"title": "Book 0"}], '"chapter_offsets"'),
        ([{"title": "Book 0", "chapter_offsets": [5]}], "character 5"),
        ([{"title": "Book 0", "chapter_offsets": [10**9]}], "character 1000000000"),
    ],
)
def test_a_manifest_of_other_documents_is_an_error(tmp_path, tiny_tokenizer, rows, message):
    with pytest.raises(LongMemError, match=message):
        breaks_of(tiny_tokenizer, pack(tmp_path, book(), book()), manifest=manifest(tmp_path, *rows))


# ChapterBreak's own file -------------------------------------------------------------------------------------------


def example(**more: object) -> dict:
    own = {"ctx": prose("Anna") * 2, "pos": f"Chapter 2\n\n{prose('Boris')}", "negs": list(map(prose, NAMES[2:7]))}
    return own | more


def test_chapterbreak_is_read_and_passages_cut_to_the_shortest(tmp_path, tiny_tokenizer):
    path = tmp_path / "chapterbreak_ctx_8192.json"
    path.write_text(json.dumps({"ao3": {"17": [example(), example(negs=["The ship."] * 5)]}, "pg19": {}}))
    found, skipped = breaks_of(tiny_tokenizer, path)
    assert [b.key for b in found] == ["ao3 17, 1", "ao3 17, 2"]
    assert tiny_tokenizer.decode(found[0].candidates_NT[0]).startswith("Boris")
    shortest = len(tiny_tokenizer("The ship.")["input_ids"])
    assert [b.candidates_NT.shape[1] for b in found] == [16, shortest]
    assert skipped == {}


def test_of_chapterbreak_too_a_passage_inside_the_prefix_does_not_count(tmp_path, tiny_tokenizer):
    inside = example()
    inside["negs"][4] = "Then Anna went to the ship."
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"17": [inside, example(ctx="Short."), example(pos="  ")]}))
    found, skipped = breaks_of(tiny_tokenizer, path)
    assert not found
    assert skipped == {
        "fewer than 5 other chapters outside the prefix": 1,
        "fewer than 64 tokens before it": 1,
        "a passage without text": 1,
    }


@pytest.mark.parametrize("content", ["[]", "not JSON", '{"17": [{"ctx": "a"}]}', '{"17": [{"ctx": 1}]}'])
def test_another_json_is_refused(tmp_path, content):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(LongMemError, match=r"other\.json is not a file of ChapterBreak"):
        list(read_chapterbreak(tmp_path / "other.json"))


# Scores ------------------------------------------------------------------------------------------------------------


def test_a_tie_is_wrong():
    assert is_right([-1.0, -2.0, -3.0])
    assert not is_right([-1.0, -1.0, -3.0])
    assert not is_right([-2.0, -1.0, -3.0])
    assert not is_right([float("nan"), -1.0])


def test_scores_are_those_of_passage_after_prefix_with_the_rest_in_memory(tmp_path, tiny_model, tiny_tokenizer):
    found, _ = breaks_of(tiny_tokenizer, pack(tmp_path, book()))
    systems = Systems(tiny_model, ["backbone", "empty_bank", "longmem"])
    scores = suffix.measure_break(systems, found[3], [PREFIX])["scores"][str(PREFIX)]
    memories = systems.new_memories()
    systems.read(memories, found[3].prefix_T[:-16])
    for number, passage_T in enumerate(found[3].candidates_NT):
        ids = torch.cat([found[3].prefix_T[-16:], passage_T])
        for name, logits in systems.logits(ids[None], memories).items():
            log_p = logits[0, 15:-1].log_softmax(-1).gather(1, passage_T[:, None]).sum()
            assert scores[name][number] == pytest.approx(log_p.item(), abs=1e-3)
    assert scores["longmem"] != pytest.approx(scores["empty_bank"], abs=1e-3)


def test_a_prefix_that_fits_in_the_window_leaves_memory_empty(tmp_path, tiny_model, tiny_tokenizer):
    found, _ = breaks_of(tiny_tokenizer, pack(tmp_path, book()))
    systems = Systems(tiny_model, ["empty_bank", "longmem"])
    scores = suffix.measure_break(systems, found[0], [8, 16, PREFIX])["scores"]
    for prefix in ("8", "16"):
        assert scores[prefix]["longmem"] == pytest.approx(scores[prefix]["empty_bank"])
    assert scores["8"]["empty_bank"] != scores["16"]["empty_bank"]
    assert scores[str(PREFIX)]["empty_bank"] == scores["16"]["empty_bank"]  # the window holds the same


def test_accuracy_is_the_share_of_items_that_are_right_for_each_prefix(tmp_path, saved_model, monkeypatch):
    monkeypatch.setattr(suffix, "SHORTER_PREFIXES", (24, 40, 999))
    result = measure_suffix(options(pack(tmp_path, book()), model=saved_model, max_items=5))
    assert [part["prefix"] for part in result["by_prefix"]] == [24, 40, PREFIX]
    for part in result["by_prefix"]:
        right = [is_right(item["scores"][str(part["prefix"])]["longmem"]) for item in result["items"]]
        assert part["systems"]["longmem"]["accuracy"] == pytest.approx(sum(right) / 5)
    assert result["systems"]["longmem"] == result["by_prefix"][-1]["systems"]["longmem"]
    assert result["systems"]["longmem"]["n"] == 5 == result["breaks"]["measured"]
    assert result["gains"]["better_control"]["control"] == "empty_bank"
    assert result["systems"]["full_attention"]["accuracy"] is None
    assert "trained positions: 32; tokens of prefix: 64" in result["systems"]["full_attention"]["reason"]
    assert {len(row) for row in table(result)} == {6}
    names = ["backbone", "empty_bank", "longmem", "full_attention", "longmem against empty_bank"]
    assert [row[0] for row in table(result)][1:] == names


def test_full_attention_sees_the_whole_prefix_where_the_backbone_was_trained_for_it(tmp_path, saved_model):
    folder = tmp_path / "model"
    shutil.copytree(saved_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["backbone_config"]["max_position_embeddings"] = 128
    (folder / "config.json").write_text(json.dumps(config))
    systems = Systems(folder, ["backbone", "full_attention"])
    found, _ = breaks_of(systems.model.tokenizer, pack(tmp_path, book()))
    scores = suffix.measure_break(systems, found[3], [16, PREFIX])["scores"]
    assert scores["16"]["full_attention"] == pytest.approx(scores["16"]["backbone"])
    passage_T = found[3].candidates_NT[1]
    ids = torch.cat([found[3].prefix_T, passage_T])
    logits_TV = systems.model.backbone.causal_lm(ids[None]).logits[0, PREFIX - 1 : -1]
    log_p = logits_TV.log_softmax(-1).gather(1, passage_T[:, None]).sum()
    assert scores[str(PREFIX)]["full_attention"][1] == pytest.approx(log_p.item(), abs=1e-3)
    result = measure_suffix(options(pack(tmp_path, book()), model=str(folder), max_items=3))
    assert result["systems"]["full_attention"]["n"] == 3


def test_overlapping_windows_make_no_sense_here(tmp_path, saved_model):
    with pytest.raises(LongMemError, match="'backbone_sliding'"):
        measure_suffix(options(pack(tmp_path, book()), model=saved_model, systems=("backbone_sliding",)))


def test_a_run_that_was_cut_goes_on_and_gives_the_same_result(tmp_path, saved_model, monkeypatch):
    path, asked = tmp_path / "result.json", {"model": saved_model, "max_items": 3, "json": tmp_path / "result.json"}
    documents = pack(tmp_path, book())
    measure_suffix(options(documents, **asked))
    saved = path.read_text()
    path.unlink()
    add, measured = Items.add, []

    def cut(self: Items, key: str, item: dict) -> None:
        add(self, key, item)
        measured.append(key)
        if len(measured) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Items, "add", cut)
    with pytest.raises(KeyboardInterrupt):
        measure_suffix(options(documents, **asked))
    with pytest.raises(LongMemError, match="other settings"):
        measure_suffix(options(documents, **asked, with_headings=True, resume=True))
    measure_suffix(options(documents, **asked, resume=True))
    assert len(measured) == len(set(measured)) == 3
    assert path.read_text() == saved
