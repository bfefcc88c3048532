"""Streaming, scoring and the trace: what is shown is what happened."""

import threading

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerFast

from longmem.cache import MemoryCache
from longmem.documents import Document
from longmem.errors import LongMemError
from longmem.generation import Generation, RunningText, stream
from longmem.scoring import continuation_point, score, score_pages
from longmem.trace import COLUMNS, GATE_COLUMNS, TOKEN_COLUMNS

STORY = "The keeper “wrote” the name 🙂 of every ship: Élodie, naïve. In the morning the ship returned to the sea. " * 6


@pytest.fixture
def bank(tiny_model):
    bank = tiny_model.new_bank(dtype=torch.float32)
    tiny_model.remember(Document.from_text("story", STORY), memory=bank)
    return bank


def run(model, bank, **options):
    generation = stream(model, "The ship", memory=bank, **({"max_new_tokens": 40, "seed": 3} | options))
    return generation, list(generation)


class Forced(LogitsProcessor):
    """Let only the next token of a given text be generated."""

    def __init__(self, token_ids: list[int]) -> None:
        self.token_ids = iter(token_ids)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, next(self.token_ids)] = 0.0
        return forced


def force(generation: Generation, text: str) -> Generation:
    ids = generation.model.tokenizer(text)["input_ids"]
    processors = LogitsProcessorList([Forced(ids)])
    return generation.start(max_new_tokens=len(ids), do_sample=False, logits_processor=processors)


def generated(model, memory, text: str) -> Generation:
    generation = Generation(
        model, model.tokenizer("The ship")["input_ids"], memory=memory, before=None, exclude=(), stop=None
    )
    list(force(generation, text))
    return generation


def test_streaming_equals_generating_at_once(tiny_model, bank):
    _, tokens = run(tiny_model, bank, greedy=True)
    ids = torch.tensor([tiny_model.tokenizer("The ship")["input_ids"]])
    whole = tiny_model.generate(
        ids, attention_mask=torch.ones_like(ids), memory=bank, max_new_tokens=40, do_sample=False
    )
    assert [t.token_id for t in tokens] == whole[0, ids.shape[1] :].tolist()


def test_one_seed_gives_one_text_and_another_seed_another(tiny_model, bank):
    texts = [run(tiny_model, bank, seed=seed)[0].text for seed in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]


def test_sampling_follows_the_distribution(tiny_model):
    ids = torch.tensor([tiny_model.tokenizer("The ship")["input_ids"]])
    with torch.no_grad():
        expected = (tiny_model(ids).logits[0, -1] * 20).softmax(-1)
    options = {"max_new_tokens": 1, "temperature": 0.05}
    drawn = torch.tensor([run(tiny_model, None, seed=s, **options)[1][0].token_id for s in range(200)])
    found = torch.bincount(drawn, minlength=len(expected)) / 200
    # Half the summed difference; of 200 exact draws it is below 0.2 in more than 999 of 1,000 cases.
    assert (found - expected).abs().sum() / 2 < 0.2


def test_top_p_leaves_out_what_is_improbable(tiny_model):
    ids = torch.tensor([tiny_model.tokenizer("The ship")["input_ids"]])
    with torch.no_grad():
        order = (tiny_model(ids).logits[0, -1] * 5).softmax(-1).sort(descending=True)
    nucleus = set(order.indices[: int((order.values.cumsum(0) < 0.4).sum()) + 1].tolist())
    options = {"max_new_tokens": 1, "temperature": 0.2, "top_p": 0.4}
    drawn = {run(tiny_model, None, seed=s, **options)[1][0].token_id for s in range(60)}
    assert len(nucleus) > 1
    assert drawn <= nucleus


def test_stopping_ends_the_run_within_one_token(tiny_model, bank):
    stop = threading.Event()
    generation = stream(tiny_model, "The", memory=bank, max_new_tokens=500, stop=stop)
    seen = []
    for token in generation:
        seen.append(token)
        if len(seen) == 3:
            stop.set()
    ended = len(generation.tokens)
    assert ended < 30
    assert len(seen) == ended


def test_a_stop_ends_a_long_prompt_before_it_has_been_read(tiny_model, bank):
    stop = threading.Event()
    stop.set()
    seen = []
    handle = tiny_model.backbone.decoder.register_forward_pre_hook(lambda *_: seen.append(1))
    try:
        generation = stream(tiny_model, STORY[:2000], memory=bank, max_new_tokens=50, stop=stop)
        assert list(generation) == []
    finally:
        handle.remove()
    assert not seen
    assert generation.trace.to_frame().empty


def test_a_trace_outlives_its_documents(tiny_model, bank):
    generation, _ = run(tiny_model, bank, max_new_tokens=6)
    tiny_model.forget(bank, 0)
    frame = generation.trace.to_frame()
    assert "story" in set(frame.document)
    assert all(row.text == STORY[row.start : row.end] for row in frame.itertuples() if row.document == "story")


def test_what_left_the_window_can_be_committed_to_the_bank(tiny_model, bank):
    generation, _ = run(tiny_model, bank, max_new_tokens=60)
    document = generation.commit(bank)
    record = bank.documents[document]
    assert record.name == "generated"
    assert ("The ship" + generation.text).startswith(record.text)
    assert record.n_tokens == 32  # of some sixty: the window has slid twice
    chunks = [chunk for chunk in bank.chunks() if chunk.document == document]
    assert "".join(record.text[c.start : c.stop] for c in chunks) == record.text
    states = tiny_model.backbone(torch.tensor([generation.running.ids[:32]]))
    tiny_model.forget(bank, 0)
    for index, layer in enumerate((1, 3)):
        stored_GTD = bank._ring.keys[index][:, :32]
        torch.testing.assert_close(stored_GTD, states.qkv[layer][1][0], atol=1e-4, rtol=0)


def test_nothing_can_be_committed_before_the_window_slides(tiny_model, bank):
    generation, _ = run(tiny_model, bank, max_new_tokens=4)
    with pytest.raises(LongMemError, match="left the window"):
        generation.commit(bank)


def test_leaving_the_loop_stops_the_thread(tiny_model, bank):
    generation = stream(tiny_model, "The", memory=bank, max_new_tokens=2000)
    for _ in generation:
        break
    for thread in threading.enumerate():
        if thread.name == "longmem-generate":
            thread.join(timeout=20)
            assert not thread.is_alive()


def test_weights_of_a_head_sum_to_its_gate(tiny_model, bank):
    generation, _ = run(tiny_model, bank)
    frame = generation.trace.to_frame()
    sums = frame.groupby(["step", "layer", "head"]).agg(weight=("weight", "sum"), gate=("gate", "first"))
    assert len(sums) == 40 * 2 * 4
    assert (sums.weight - sums.gate).abs().max() < 1e-5
    gates = generation.trace.gates_frame().set_index(["step", "layer", "head"]).gate
    assert (gates - sums.gate).abs().max() < 1e-6


def test_every_text_stands_where_it_says(tiny_model, bank):
    generation, _ = run(tiny_model, bank)
    frame = generation.trace.to_frame()
    assert list(frame.columns) == COLUMNS
    running = "The ship" + generation.text
    sources = {"story": STORY, "generated": running}
    assert set(frame.document) == set(sources)  # forty tokens slide a window of 32
    for row in frame.itertuples():
        assert row.text == sources[row.document][row.start : row.end]


def test_ranks_follow_scores(tiny_model, bank):
    frame = run(tiny_model, bank)[0].trace.to_frame()
    best_first = frame.sort_values(["step", "layer", "head", "rank"])
    steps = best_first.groupby(["step", "layer", "head"])["score"].diff().dropna()
    assert (steps <= 0).all()


def test_the_effect_is_the_difference_of_two_independent_runs(tiny_model, bank):
    generation, tokens = run(tiny_model, bank)
    ids = torch.tensor([generation.prompt_ids + [t.token_id for t in tokens]])
    first = len(generation.prompt_ids)
    with torch.no_grad():
        for memory, name in ((bank, "logprob"), (None, "logprob_empty")):
            logprobs = tiny_model(ids, memory=memory).logits[0, first - 1 : -1].log_softmax(-1)
            expected = logprobs.gather(1, ids[0, first:, None])[:, 0]
            found = torch.tensor([getattr(t, name) for t in tokens])
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    frame = generation.trace.tokens_frame()
    assert list(frame.columns) == TOKEN_COLUMNS
    assert frame.effect.tolist() == pytest.approx((frame.logprob - frame.logprob_empty).tolist())
    assert frame.effect.abs().max() > 1e-3


@pytest.mark.parametrize("with_bank", [True, False])
def test_scoring_a_text_gives_the_trace_of_having_generated_it(tiny_model, bank, with_bank):
    memory = bank if with_bank else None  # without a bank, only what has left the window is retrieved
    generation = generated(tiny_model, memory, STORY[:110])
    trace = score(tiny_model, STORY[:110], context="The ship", memory=memory)
    assert trace.token_ids == [t.token_id for t in generation.tokens]
    assert trace.logprobs == pytest.approx([t.logprob for t in generation.tokens], abs=1e-4)
    assert trace.effects == pytest.approx([t.effect for t in generation.tokens], abs=1e-4)
    columns = ["step", "token", "layer", "head", "rank", "chunk", "document", "start", "end", "text"]
    found, expected = trace.to_frame(), generation.trace.to_frame()
    assert found[columns].equals(expected[columns])
    assert (found.weight - expected.weight).abs().max() < 1e-4


@torch.no_grad()
def test_a_document_is_scored_page_by_page_and_no_page_finds_itself_or_what_follows(tiny_model, bank):
    encoded = tiny_model.tokenizer(STORY, return_offsets_mapping=True, add_special_tokens=False)
    ids, spans, half = encoded["input_ids"], encoded["offset_mapping"], tiny_model.config.window // 2
    pages = list(score_pages(tiny_model, bank, 0, 200, page_tokens=20))
    start = next(i for i, (begin, _) in enumerate(spans) if begin >= 200)
    assert [token for page in pages for token in page.trace.token_ids] == ids[start:]
    assert (pages[0].start, pages[-1].stop) == (spans[start][0], len(STORY))
    for page in pages:
        first, stop = max(0, start - half), min(start + 20, len(ids))
        assert page.before == (0, first)
        for memory, found in ((bank, page.trace.logprobs), (None, page.trace.logprobs_empty)):
            where = {"memory": memory, "before": (0, first)} if memory is not None else {}
            logits = tiny_model(torch.tensor([ids[first : stop - 1]]), use_cache=True, **where).logits[0]
            expected = logits.log_softmax(-1).gather(1, torch.tensor(ids[first + 1 : stop])[:, None])[:, 0]
            assert found == pytest.approx(expected[start - first - 1 :].tolist(), abs=1e-4)
        frame = page.trace.to_frame()
        assert frame[frame.chunk >= 0].end.max() <= spans[first - 1][1]
        start = stop
    assert any(abs(effect) > 1e-3 for page in pages for effect in page.trace.effects)


def test_a_trace_looked_at_while_the_model_runs_on_is_the_final_one_so_far(tiny_model):
    """The model may be one token ahead of whoever reads; until the window slides its memory is empty."""
    whole = score(tiny_model, STORY[:110], context="The ship", memory=None).to_frame()
    first_steps = []
    prompt_ids = tiny_model.tokenizer("The ship")["input_ids"]
    generation = Generation(tiny_model, prompt_ids, memory=None, before=None, exclude=(), stop=None)
    see_logits = generation.recorder.see_logits

    def look(logits_BTV: torch.Tensor) -> None:
        see_logits(logits_BTV)
        first_steps.append(generation.trace.to_frame().step.min())

    generation.recorder.see_logits = look
    list(force(generation, STORY[:110]))
    assert {int(step) for step in first_steps if step == step} == {int(whole.step.min())}


def test_without_memory_nothing_is_traced_and_memory_has_no_effect(tiny_model):
    generation, tokens = run(tiny_model, None, max_new_tokens=10)
    frame = generation.trace.to_frame()
    assert frame.empty
    assert list(frame.columns) == COLUMNS
    assert list(generation.trace.gates_frame().columns) == GATE_COLUMNS
    assert all(t.effect == 0 for t in tokens)


def test_an_excluded_chunk_is_never_retrieved(tiny_model, bank):
    frame = run(tiny_model, bank, max_new_tokens=4)[0].trace.to_frame()
    chunk = int(frame.chunk.mode()[0])
    again = run(tiny_model, bank, max_new_tokens=4, exclude=[chunk])[0].trace.to_frame()
    assert chunk in set(frame.chunk)
    assert chunk not in set(again.chunk)


def test_a_document_is_continued_with_what_comes_before_only(tiny_model, bank):
    prompt, before = continuation_point(tiny_model, bank, 0, 300)
    assert STORY[:300].endswith(prompt)
    assert before[0] == 0
    frame = stream(tiny_model, prompt, memory=bank, before=before, max_new_tokens=5)
    list(frame)
    story = frame.trace.to_frame().query("document == 'story'")
    assert len(story)
    assert story.end.max() <= 300 - len(prompt)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_new_tokens", 0),
        *[("temperature", value) for value in (0.0, 1e-40, -1.0, float("inf"), float("nan"))],
        *[("top_p", value) for value in (0.0, 1.1)],
    ],
)
def test_options_outside_what_is_allowed_are_refused_by_name(tiny_model, option, value):
    with pytest.raises(LongMemError, match=f"{option} is {value}"):
        stream(tiny_model, "The", memory=None, **{option: value})


def test_an_error_while_generating_reaches_the_reader(tiny_model, bank, monkeypatch):
    def broken(*arguments: object, **options: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(tiny_model, "generate", broken)
    with pytest.raises(MemoryError, match="no room"):
        list(stream(tiny_model, "The", memory=bank))


@pytest.mark.parametrize("text", ["a🙂b É", "“naïve” 👩‍👩‍👧 — 日本", " two  spaces\n\n\tand a tab"])
def test_running_text_is_the_text_and_every_token_spans_its_whole_characters(tiny_tokenizer, text):
    encoded = Document.from_text("text", text).encode(tiny_tokenizer)
    running = RunningText(tiny_tokenizer, encoded.token_ids.tolist())
    assert running.text == "".join(running.pieces) == text
    assert running.spans == [tuple(span) for span in encoded.spans.tolist()]


def test_garbage_before_a_character_does_not_break_it(tiny_tokenizer):
    emoji = tiny_tokenizer("🙂")["input_ids"]
    running = RunningText(tiny_tokenizer, [emoji[2], *emoji, emoji[0], *emoji])
    assert running.text == "�🙂�🙂"


def test_a_replacement_character_of_the_text_itself_is_kept(tiny_tokenizer):
    text = "a � b, and ���"
    running = RunningText(tiny_tokenizer, tiny_tokenizer(text + "c")["input_ids"])
    assert running.text == text + "c"


def test_special_tokens_are_no_text(tiny_tokenizer):
    running = RunningText(tiny_tokenizer, [0, *tiny_tokenizer("The ship")["input_ids"], 0])
    assert running.text == "The ship"
    assert running.pieces[-1] == ""


def test_spaces_survive_a_tokenizer_that_drops_the_first_one_it_decodes():
    """As those of Llama 2 and Mistral do."""
    vocabulary = {"<unk>": 0, "▁The": 1, "▁ship": 2, "s": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    running = RunningText(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"), [1, 2, 3, 2])
    assert running.text == "The ships ship"


def test_the_text_of_a_chunk_that_cuts_a_character_holds_all_of_it(tiny_model):
    text = "The ship is 🙂🙂🙂🙂🙂🙂🙂🙂 at sea, at sea, at sea, at sea, at sea"
    trace = score(tiny_model, text, memory=None)
    frame = trace.to_frame()
    assert frame.text.str.contains("🙂").any()
    assert (frame.text != "").all()
    assert "".join(trace.tokens) == text.removeprefix("The")


def test_iterating_again_over_a_finished_generation_ends(tiny_model):
    generation, tokens = run(tiny_model, None, max_new_tokens=2)
    assert len(tokens) == 2
    assert list(generation) == []


def test_excluding_chunks_equals_a_bank_without_them(tiny_model, bank):
    excluded = [chunk.id for chunk in bank.chunks()][::2]
    trace = score(tiny_model, STORY[:80], memory=bank, exclude=excluded)
    bank.remove_chunks(excluded)
    without = score(tiny_model, STORY[:80], memory=bank)
    assert trace.logprobs == pytest.approx(without.logprobs, abs=1e-5)
    assert trace.to_frame().chunk.tolist() == without.to_frame().chunk.tolist()


def test_a_plain_cache_of_transformers_is_not_needed(tiny_model):
    ids = torch.tensor([tiny_model.tokenizer("The ship")["input_ids"]])
    out = tiny_model.generate(ids, max_new_tokens=3, do_sample=True, return_dict_in_generate=True)
    assert isinstance(out.cache, MemoryCache)


def test_a_document_that_has_left_memory_cannot_be_continued(tiny_model):
    small = tiny_model.new_bank(capacity=64)
    gone = tiny_model.remember(Document.from_text("first", "The ship returned. " * 8), memory=small)
    tiny_model.remember(Document.from_text("second", "The keeper read on. " * 40), memory=small)
    with pytest.raises(LongMemError, match=f"document is {gone}"):
        continuation_point(tiny_model, small, gone, 20)
