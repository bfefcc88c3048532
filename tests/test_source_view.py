"""The source view: weights grouped in four ways, pages, the map and the hits, and what becomes of it as HTML."""

import html
import re
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from app import source_groups as grouping
from app.session import OWN_TEXT, Recipe, Run, Source, memory_map
from app.source_choice import GROUPINGS, RUN, SCOPES, TOKEN, SourceChoice
from app.source_markup import no_source, source_html
from app.source_spans import TokenSpans
from app.source_view import (
    MAX_BINS,
    PAGE,
    SourceView,
    chunk_place,
    page_bounds,
    page_parts,
    view_source,
    weight_bins,
)
from longmem.documents import Document
from longmem.scoring import score
from tests.test_charts import make_tokens
from tests.test_source_spans import MIXED, chunks_of

HOSTILE = '<img src=x onerror="window.pwn=1"> & ${window.pwn=1} {{value}} '
STORY = "The lighthouse keeper wrote the name of every ship in a long ledger. " * 60


@pytest.fixture(scope="module")
def run(tiny_model) -> Run:
    """What a tiny model looked up in three documents, one of other scripts and one that means harm."""
    bank = tiny_model.new_bank()
    for name, text in {"story.txt": STORY, "mixed.txt": MIXED * 6, f"{HOSTILE}.txt": HOSTILE * 15}.items():
        tiny_model.remember(Document.from_text(name, text), memory=bank)
    trace = score(tiny_model, " read the ledger again, and the café was closed 🙂.", context="The keeper", memory=bank)
    sources = {i: Source(record.name, record.text) for i, record in bank.documents.items()}
    tables = (trace.tokens_frame(), trace.to_frame(), trace.gates_frame(), trace.token_weights(), memory_map(bank))
    return Run(1, Recipe("scored", "The keeper"), *tables, {**sources, OWN_TEXT: Source("this text", "")})


@pytest.fixture
def spans(tiny_tokenizer) -> TokenSpans:
    return TokenSpans(tiny_tokenizer)


def chosen(run: Run, step: int = 3) -> tuple[int, int]:
    return step, int(run.gates.layer.max())


def view(run: Run, spans: TokenSpans, **choice) -> SourceView:
    return view_source(run, chosen(run), SourceChoice(**choice), spans)


def grouped(run: Run, spans: TokenSpans, kind: str, scope: str) -> pd.DataFrame:
    if kind in ("token", "sentence"):
        tokens = grouping.group_by_token(run, chosen(run), scope)
        return tokens if kind == "token" else grouping.group_by_sentence(run, tokens, spans)
    chunks = grouping.group_by_chunk(run, chosen(run), scope)
    return chunks if kind == "chunk" else grouping.group_by_document(run, chunks)


def shown(markup: str, pattern: str = r'id="lm-source-page"[^>]*>(.*?)</div>') -> str:
    """The text of the page in the HTML, as a browser would show it."""
    return html.unescape(re.sub(r"<[^>]*>", "", re.search(pattern, markup, re.S).group(1)))


# Grouping


@pytest.mark.parametrize("kind", GROUPINGS)
@pytest.mark.parametrize("scope", SCOPES)
def test_the_weights_of_groups_sum_to_those_of_the_trace(run, spans, kind, scope):
    step, layer = chosen(run)
    rows = run.trace if scope == RUN else run.trace[run.trace.step == step]
    rows = rows[rows.layer == layer] if scope == "layer" else rows
    n_averaged = len(run.gates.drop_duplicates(["layer", "head"])) * (len(run.tokens) if scope == RUN else 1)
    n_averaged = run.gates[run.gates.layer == layer]["head"].nunique() if scope == "layer" else n_averaged
    groups = grouped(run, spans, kind, scope)
    assert groups.weight.sum() == pytest.approx(rows.weight.sum() / n_averaged, abs=1e-6)
    assert groups.weight.sum() > 0
    assert groups.weight.is_monotonic_decreasing


def test_a_chunk_weighs_what_its_heads_gave_it_on_average(run, spans):
    step, layer = chosen(run)
    groups = grouped(run, spans, "chunk", "layer").set_index("chunk")
    rows = run.trace[(run.trace.step == step) & (run.trace.layer == layer)]
    for chunk, weight in rows.groupby("chunk").weight.sum().items():
        assert groups.weight[chunk] == pytest.approx(weight / 4, abs=1e-6)


def test_the_mean_over_all_layers_of_a_token_is_that_of_its_layers(run, spans):
    step, _ = chosen(run)
    layers = [grouping.group_by_chunk(run, (step, layer), "layer").weight.sum() for layer in (1, 3)]
    assert grouping.group_by_chunk(run, (step, 3), TOKEN).weight.sum() == pytest.approx(np.mean(layers))
    assert grouping.group_by_chunk(run, (step, None), "layer").weight.sum() == pytest.approx(np.mean(layers))


def test_every_token_has_its_own_characters_in_a_text_of_many_scripts(run, spans, tiny_tokenizer):
    groups = grouping.group_by_token(run, chosen(run), RUN)
    groups = grouping.exact(run, groups[groups.document == 1], spans)
    truth = Document.from_text("text", run.sources[1].text).encode(tiny_tokenizer).spans.numpy()
    first = run.chunks.set_index("chunk").first_token
    for group in groups.itertuples():
        assert (group.start, group.end) == tuple(truth[first[group.chunk] + group.place])
    assert len(groups) > 20


def test_a_sentence_holds_the_weights_of_the_tokens_that_end_in_it(run, spans):
    tokens = grouping.group_by_token(run, chosen(run), RUN)
    sentences = grouping.group_by_sentence(run, tokens, spans)
    placed = grouping.exact(run, tokens, spans)
    for sentence in sentences.itertuples():
        inside = (placed.document == sentence.document) & placed.end.between(sentence.start + 1, sentence.end)
        assert sentence.weight == pytest.approx(placed[inside].weight.sum())


# Pages and maps


@pytest.mark.parametrize("start", [-500, 0, 40_000, 99_000, 10**9])
def test_a_page_lies_in_its_document_and_is_never_larger_than_a_page(start):
    text = "several words " * 7_000
    first, last = page_bounds(text, start)
    assert 0 <= first < last <= len(text)
    assert PAGE <= last - first <= PAGE + 80
    assert first == 0 or text[first - 1] == " "
    assert last == len(text) or text[last] == " "


def test_a_short_document_is_one_page():
    assert page_bounds("A short text.", 5) == (0, 13)


def test_the_parts_of_a_page_are_its_text_and_a_shared_character_is_shown_once():
    text = "a🙂b and more"
    rows = [(0, 1, 0.1, 7, 0), (1, 2, 0.2, 7, 1), (1, 2, 0.3, 7, 2), (1, 3, 0.4, 8, 0)]
    groups = pd.DataFrame(rows, columns=["start", "end", "weight", "chunk", "place"]).assign(here=False)
    parts = page_parts(text, 0, len(text), groups)
    assert [part.text for part in parts] == ["a", "🙂", "b", " and more"]
    assert [part.weight for part in parts] == [0.1, 0.5, 0.4, None]


@pytest.mark.parametrize("kind", ["token", "chunk", "sentence"])
def test_every_page_of_a_document_shows_its_text_exactly(run, spans, kind):
    for document in (0, 1, 2):
        for page in (0, 1_000, 10**6):
            choice = SourceChoice(grouping=kind, scope=RUN).at_page(document, page)
            at = view_source(run, chosen(run), choice, spans)
            text = run.sources[document].text[at.page.start : at.page.end]
            assert "".join(part.text for part in at.page.parts) == text
            assert shown(source_html(at)).strip("…") == text


def test_the_bins_of_a_map_sum_to_the_weight_of_its_document(run, spans):
    at = view(run, spans, scope=RUN)
    assert sum(sum(line.bins) for line in at.documents) == pytest.approx(at.total)
    for line in at.documents:
        assert len(line.bins) <= MAX_BINS
        assert sum(line.bins) == pytest.approx(line.weight)


def test_a_bin_is_where_its_groups_are():
    groups = pd.DataFrame({"start": [0, 500, 999], "end": [4, 504, 1000], "weight": [0.1, 0.2, 0.3]})
    bins = weight_bins(groups, 1000)
    assert (bins[0], bins[120], bins[-1]) == (0.1, 0.2, 0.3)
    assert weight_bins(groups.iloc[:0], 3) == (0.0, 0.0, 0.0)


# Going to places


@pytest.mark.parametrize("kind", ["token", "chunk", "sentence"])
def test_the_view_begins_at_the_heaviest_place_and_hits_are_in_the_order_of_weight(run, spans, kind):
    weights = []
    for rank in range(4):
        choice = SourceChoice(grouping=kind) if rank == 0 else SourceChoice(grouping=kind).at_hit(rank)
        at = view_source(run, chosen(run), choice, spans)
        (here,) = [part for part in at.page.parts if part.here]
        assert at.hit == rank
        assert here.weight == pytest.approx(at.hit_weight)
        weights.append(at.hit_weight)
    assert weights == sorted(weights, reverse=True)
    assert weights[0] == at.top


def test_a_hit_beyond_the_last_is_the_last(run, spans):
    at = view_source(run, chosen(run), SourceChoice().at_hit(10**6), spans)
    assert at.hit == at.n_groups - 1


def test_choosing_a_document_goes_to_its_heaviest_place(run, spans):
    for line in view(run, spans, scope=RUN).documents:
        at = view(run, spans, scope=RUN, document=line.document)
        groups = grouping.group_by_chunk(run, chosen(run), RUN)
        assert at.hit_weight == groups[groups.document == line.document].weight.max()


def test_another_grouping_stays_at_the_place(run, spans):
    begun = view_source(run, chosen(run), SourceChoice(scope=RUN).at_hit(5), spans)
    chunk = chunk_place(run, int(grouping.group_by_chunk(run, chosen(run), RUN).chunk[5]))
    token = view_source(run, chosen(run), begun.choice.showing(grouping="token"), spans)
    assert (token.choice.document, chunk.start <= token.choice.place < chunk.end) == (chunk.document, True)
    whole = view_source(run, chosen(run), token.choice.showing(grouping="document"), spans)
    assert view_source(run, chosen(run), whole.choice.showing(grouping="chunk"), spans).hit == 5


def test_a_sentence_is_gone_to_at_its_heaviest_chunk(run, spans):
    sentence = view_source(run, chosen(run), SourceChoice("sentence", RUN).at_hit(2), spans)
    (here,) = [part for part in sentence.page.parts if part.here]
    chunk = view_source(run, chosen(run), sentence.choice.showing(grouping="chunk"), spans)
    assert sentence.page.start == chunk.page.start
    assert grouping.group_by_chunk(run, chosen(run), RUN).chunk[chunk.hit] == here.chunk


def test_a_page_turned_by_hand_is_at_no_place(run, spans):
    at = view_source(run, chosen(run), SourceChoice().at_page(0, 600), spans)
    assert at.hit is None
    assert 560 <= at.page.start <= 600


def test_another_token_is_followed_to_its_place_unless_the_page_stays(run):
    at = SourceChoice(document=1, place=80, page=None, hit=2, selection=(1, 3, 1))
    assert at.following((1, 3, 1)) is at
    assert at.following((1, 4, 1)).document is None
    kept = replace(at, stay=True).following((1, 4, 1))
    assert (kept.document, kept.place, kept.hit) == (1, 80, None)
    readers = replace(at, chunk=7)
    assert readers.following((1, 4, 1)).chunk == 7
    assert readers.following((2, 4, 1)).chunk is None


# Chunks


def page_at_chunk(run, chunk, spans):
    """The page that a chunk stands on, tinted for the whole run."""
    place = chunk_place(run, chunk)
    return view_source(run, (None, None), SourceChoice(scope=RUN).at_place(place.document, place.start, chunk), spans)


def test_a_chunk_is_shown_on_its_page_with_every_token_that_looked_at_it(run, spans):
    chunk = int(run.trace.chunk.mode()[0])
    at = page_at_chunk(run, chunk, spans)
    assert [part.text for part in at.page.parts if part.here] == [at.chunk.text]
    rows = run.trace[(run.trace.chunk == chunk) & (run.trace.weight > 0)]
    assert at.chunk.n_uses == len(rows.drop_duplicates(["step", "layer"]))
    for use in at.chunk.uses:
        looked = rows[(rows.step == use.step) & (rows.layer == use.layer)]
        assert use.weight == pytest.approx(looked.weight.sum() / 4)


def test_a_chunk_without_weight_is_shown_without_a_tint(run, spans):
    unseen = int(next(chunk for chunk in run.chunks.chunk if chunk not in set(run.trace.chunk)))
    at = page_at_chunk(run, unseen, spans)
    (here,) = [part for part in at.page.parts if part.here]
    assert (here.weight, here.text) == (0.0, at.chunk.text)
    assert "No token of this run looked at it" in source_html(at)
    assert chunk_place(run, 10**6) is None


def test_the_first_and_the_last_chunk_of_a_document_have_a_page(run, spans):
    of_story = run.chunks[run.chunks.document_id == 0].sort_values("first_token")
    for row in (of_story.iloc[0], of_story.iloc[-1]):
        at = page_at_chunk(run, int(row.chunk), spans)
        assert at.page.start <= row.start < row.end <= at.page.end
    assert at.page.end == len(STORY)


# The run's own text, and what is not there


def own_text_run(tokenizer, source: Source) -> Run:
    """One token that looked back at its own text, and one that looked at nothing."""
    chunks, _ = chunks_of(MIXED, tokenizer)
    chunks = chunks.assign(chunk=-2 - np.arange(len(chunks)), document_id=OWN_TEXT, document="generated", position=0)
    row = chunks.iloc[3]
    base = {"step": [0] * 4, "layer": [1] * 4, "head": [0] * 4, "chunk": [row.chunk] * 4}
    weights = pd.DataFrame({**base, "place": [0, 1, 2, 3], "weight": [0.1, 0.2, 0.05, 0.15]})
    trace = pd.DataFrame({**base, "token": " w0", "weight": 0.5}).iloc[:1]
    gates = pd.DataFrame({"step": [0, 1], "layer": [1, 1], "head": [0, 0], "gate": [0.5, 0.0]})
    return Run(1, Recipe("scored", ""), make_tokens(2), trace, gates, weights, chunks, {OWN_TEXT: source})


def test_the_own_text_of_a_run_is_a_source_like_any_other(tiny_tokenizer, spans):
    run = own_text_run(tiny_tokenizer, Source("this text", MIXED))
    at = view_source(run, (0, 1), SourceChoice(grouping="token"), spans)
    assert at.choice.document == OWN_TEXT
    assert at.total == pytest.approx(0.5)
    assert "this text" in source_html(at)


@pytest.mark.parametrize("kind", GROUPINGS)
def test_a_text_that_is_gone_leaves_its_weights(tiny_tokenizer, spans, kind):
    run = own_text_run(tiny_tokenizer, Source("this text", ""))
    at = view_source(run, (0, 1), SourceChoice(grouping=kind), spans)
    assert at.page is None
    assert at.total == pytest.approx(0.5)
    markup = source_html(at)
    assert kind == "document" or "no longer in memory" in markup
    assert "50\u00a0%" in markup


@pytest.mark.parametrize("kind", GROUPINGS)
def test_a_token_that_retrieved_nothing_says_so_and_what_to_do(tiny_tokenizer, spans, kind):
    run = own_text_run(tiny_tokenizer, Source("this text", MIXED))
    at = view_source(run, (1, 1), SourceChoice(grouping=kind), spans)
    assert "retrieved nothing" in source_html(at)
    assert "whole run" in source_html(at)
    assert "Generate or score" in no_source()


def test_a_run_without_memory_says_so(run, spans):
    silent = replace(run, trace=run.trace.iloc[:0], gates=run.gates.iloc[:0], chunks=run.chunks.iloc[:0])
    silent = replace(silent, token_weights=pd.DataFrame(columns=run.token_weights.columns), sources={})
    for kind in GROUPINGS:
        at = view_source(silent, (3, None), SourceChoice(grouping=kind, scope=RUN), spans)
        assert "No memory layer was asked" in source_html(at)


# HTML


@pytest.mark.parametrize("kind", GROUPINGS)
def test_nothing_of_a_document_becomes_a_tag(run, spans, kind):
    markup = source_html(view(run, spans, grouping=kind, scope=RUN, document=2))
    assert "<img" not in markup
    assert 'onerror="' not in markup
    assert "&lt;img src=x onerror=&quot;" in markup


def test_numbers_are_said_for_every_tinted_place(run, spans):
    at = view(run, spans)
    tinted = [part for part in at.page.parts if part.weight]
    weights = re.findall(r'data-weight="([^"]+)\u00a0%"', source_html(at))
    assert len(weights) == len(tinted)


def test_a_long_document_in_a_full_memory_is_drawn_in_time(tiny_tokenizer, spans):
    text = STORY * 75
    chunks, _ = chunks_of(text[:300_000], tiny_tokenizer)
    chunks = chunks.assign(document="long", position=chunks.first_token)
    rng = np.random.default_rng(0)
    shape = (48, 3, 4, 16, 4)
    step, layer, head, _, place = (axis.ravel() for axis in np.indices(shape))
    chunk = rng.choice(chunks.chunk.to_numpy(), shape[:4]).repeat(4)
    weights = pd.DataFrame({"step": step, "layer": layer, "head": head, "chunk": chunk, "place": place})
    weights["weight"] = rng.random(len(weights), dtype=np.float32) / 64
    keys = ["step", "layer", "head", "chunk"]
    trace = weights.groupby(keys, as_index=False)["weight"].sum().assign(token="a")
    gates = weights[["step", "layer", "head"]].drop_duplicates().assign(gate=0.5)
    sources = {0: Source("long", text[:300_000])}
    long = Run(1, Recipe("scored", ""), make_tokens(48), trace, gates, weights, chunks, sources)
    for kind in GROUPINGS:
        for scope in SCOPES:
            choice = SourceChoice(grouping=kind, scope=scope)
            began = time.process_time()
            markup = source_html(view_source(long, (3, 1), choice, spans))
            # Measured, it is 0.1 s; a machine that is busy with other things takes more.
            assert time.process_time() - began < 2
            assert len(markup) < 400_000
