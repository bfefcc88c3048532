"""The guided lesson: its steps as HTML, with the numbers of the model at hand, computed when a step is first opened."""

from collections.abc import Callable
from html import escape
from pathlib import Path

from app import lesson_views, markup, recorded
from app.architecture import figure
from app.handlers import said
from app.inspection import percent
from app.lesson_marks import shown
from app.lesson_numbers import LessonNumbers
from app.lesson_steps import ACTIONS, AGAIN, CHARTS, STEPS, Step, without_sidenet
from app.methods import LONGMEM, METHODS, Method
from app.model_parts import MemoryNow, button, count, over
from app.reading import OPENING_PROMPT, SampleShelf
from app.session import Session
from longmem.anatomy import ModelShape
from longmem.errors import LongMemError
from longmem.model import LongMemForCausalLM

PATIENCE = 1.0  # seconds
PASSAGES = 2
AROUND = 1  # chunks shown on either side of the sentence
SAME = 0.03  # a probability that changes by less has hardly changed


class Lesson:
    """The lesson for one model. `number` counts steps from 1; what a handler returns is HTML and never an error."""

    def __init__(self, model: LongMemForCausalLM, shelf: SampleShelf, results: Path = recorded.RESULTS):
        self.numbers = LessonNumbers(model, shelf)
        self._results = results
        self._views: dict[int, Callable[[int], str]] = {
            1: lambda _: lesson_views.window_view(self.numbers.shape, self.numbers.story),
            2: self._keys,
            3: lambda _: lesson_views.chunks_view(self.numbers.shape, self.numbers.story, self.passages()),
            4: self._scores,
            5: lambda token: lesson_views.gates_view(self.numbers.tokens, self.numbers.anatomy.memory, token),
            6: self._fusion,
            7: self._sidenet,
            9: lambda _: self._limits(),
        }

    def words(self, number: int) -> str:
        """The list of steps, and the sentences of one; needs nothing but the model's sizes."""
        step = self._step(number)
        paragraphs = "".join(f"<p>{escape(text.format(**self._sizes()))}</p>" for text in step.words)
        return (
            f'{steps_list(number)}<h3 class="lm-step-title" tabindex="-1" data-step-title="{number}">'
            f"{number}. {escape(step.title)}</h3>"
            f'<div class="lm-step-words">{paragraphs}</div>'
        )

    def live(self, number: int, pick: object = None) -> str:
        """What a step shows of the model at hand; `pick` is the number of a token of the sentence, or AGAIN."""
        if not self._has(number):
            return _live(number, "")
        try:
            if number == 8:
                return _live(number, self._staleness(pick == AGAIN))
            token = self.numbers.asked
            if isinstance(pick, int) and 0 <= pick < len(self.numbers.tokens):
                token = pick
            return _live(number, self._views[number](token))
        except Exception as error:
            return _live(number, said(error))

    def task(self, number: int) -> str:
        """What to do in a step, its question with an answer that opens, and the way on."""
        step, fields = self._step(number), self._sizes() | self._answers(number)
        buttons = "".join(self._button(action) for action in step.actions)
        last = charts_table(METHODS[self.numbers.model.label]) if number == len(STEPS) else ""
        question = step.question and (
            f'<details class="lm-question"><summary>{escape(step.question.format(**fields))}</summary>'
            f"<p>{escape(step.answer.format(**fields))}</p></details>"
        )
        return (
            f'<div class="lm-task"><p>{escape(step.task.format(**fields))}</p><p class="lm-do">{buttons}</p></div>'
            f"{question}{last}{_way_on(number)}"
        )

    def drawing(self, session: Session) -> str:
        """The drawing of the model, with what this visitor has in memory and the gates of their last run."""
        return figure(self.numbers.shape, memory_now(session))

    def _has(self, number: int) -> bool:
        """Whether the model at hand has what a step is about."""
        return self.numbers.model.has_sidenet or not STEPS[number - 1].needs_sidenet

    def _step(self, number: int) -> Step:
        step = STEPS[number - 1]
        return step if self._has(number) else without_sidenet(step)

    def passages(self) -> list[list[tuple[int, int, list[str]]]]:
        """Where the sentence stands: chunks as (id, first token, tokens), with AROUND more on either side."""
        story, size = self.numbers.story, self.numbers.shape.chunk_size
        length = len(self.numbers.token_ids)
        found = []
        for place in story.places[:PASSAGES]:
            first = max(0, place // size - AROUND) * size
            last = min(len(story.token_ids), ((place + length - 1) // size + 1 + AROUND) * size)
            ids = {c.token_start: c.id for c in self.numbers.bank.chunks() if first <= c.token_start < last}
            found.append([(ids[start], start, self._texts(start, min(start + size, last))) for start in sorted(ids)])
        return found

    # Steps that need more than one call

    def _keys(self, token: int) -> str:
        numbers = self.numbers
        return lesson_views.keys_view(
            numbers.shape, numbers.tokens, numbers.anatomy.memory, token, numbers.bank.dtype.itemsize
        )

    def _scores(self, token: int) -> str:
        numbers = self.numbers
        layer, head, _ = numbers.strongest(token)
        return lesson_views.scores_view(
            numbers.tokens, token, numbers.scored(token), (layer, head), numbers.shape.retrieved_chunks
        )

    def _fusion(self, token: int) -> str:
        """Of the head whose gate is nearest to one half: there both answers count."""
        layers = self.numbers.anatomy.memory
        heads = [(layer, head) for layer, seen in layers.items() for head in range(len(seen.gate_HT))]
        layer, head = min(heads, key=lambda at: abs(layers[at[0]].gate_HT[at[1], token] - 0.5))
        seen = layers[layer]
        chunk = int(seen.chunks_HTC[head, token, seen.weights_HTC[head, token].argmax()])
        return lesson_views.fusion_view(
            self.numbers.tokens, layers, token, (layer, head), self.numbers.chunk_text(chunk)
        )

    def _sidenet(self, token: int) -> str:
        numbers, tokenizer = self.numbers, self.numbers.model.need_tokenizer()
        words = {
            name: [
                (tokenizer.decode([int(i)]), float(p))
                for i, p in zip(found.token_ids_TK[token], found.probabilities_TK[token], strict=True)
            ]
            for name, found in numbers.anatomy.likeliest.items()
        }
        return lesson_views.sidenet_view(numbers.shape, numbers.tokens, numbers.anatomy, token, words)

    def _staleness(self, again: bool) -> str:
        reread = self.numbers.reread if again else None
        return lesson_views.staleness_view(
            recorded.staleness(self._results), reread, self._is_recorded_of_this_model("staleness")
        )

    def _limits(self) -> str:
        numbers = self.numbers
        answer = numbers.tokens[numbers.asked + 1] if numbers.asked + 1 < len(numbers.tokens) else ""
        return lesson_views.limits_view(
            recorded.limits(self._results), numbers.removals, answer, self._is_recorded_of_this_model("needle-8k")
        )

    def _is_recorded_of_this_model(self, name: str) -> bool:
        found = recorded.result(name, self._results)
        model = self.numbers.model
        return found is None or (model.has_sidenet and found["model"]["fingerprint"] == model.fingerprint)

    def _button(self, action: str) -> str:
        """A button; one that shows a chart also chooses the first token and the layer that looked at one place most."""
        label = ACTIONS[action].label
        if action == AGAIN:
            return f'<button type="button" data-pick="{AGAIN}">{escape(label)}</button>'
        if not action.startswith("chart-"):
            return button(label, action)
        try:
            layer = self.numbers.strongest(self.numbers.asked)[0]
        except LongMemError:
            return button(label, action)
        return button(label, action, goto=0, layer=layer)

    def _texts(self, start: int, stop: int) -> list[str]:
        """The text of some tokens of the story; what several of them share stands with the first."""
        story, texts, at = self.numbers.story, [], 0
        for first, last in story.spans[start:stop].tolist():
            texts.append(story.text[max(first, at) : last])
            at = max(at, last)
        return texts

    # Fields

    def _sizes(self) -> dict[str, str]:
        shape = self.numbers.shape
        layers = " and ".join(
            [", ".join(map(str, shape.memory_layers[:-1])), str(shape.memory_layers[-1])]
        ).removeprefix(" and ")
        return {
            "prompt": OPENING_PROMPT,
            "window": f"{shape.window:,}",
            "half": f"{shape.window // 2:,}",
            "stays": f"{shape.window - shape.window // 2:,}",
            "window_after": f"{shape.window - shape.window // 2 + 1:,}",
            "head_dim": str(shape.head_dim),
            "kv_heads": str(shape.kv_heads),
            "memory_layers": f"layer{'s' if len(shape.memory_layers) > 1 else ''} {layers} of the backbone",
            "chunk_size": str(shape.chunk_size),
            "memory_size": f"{shape.memory_size:,}",
            "chunk_key": "the key of its best token" if shape.chunk_key == "max" else "the mean of its keys",
            "retrieved_chunks": str(shape.retrieved_chunks),
            "retrieved_tokens": str(shape.retrieved_tokens),
            "gate_words": gate_words(shape),
            "frozen": count(shape.frozen_parameters),
            "trained": count(shape.trained_parameters),
            "layers": str(shape.layers),
            "side_layers": str(shape.side_layers),
            "over": over(shape),
        }

    def _answers(self, number: int) -> dict[str, str]:
        """Fields of a question and its answer that must be computed or read first."""
        if number == 3:
            return self._example()
        if number == 8:
            return {"stale_answer": stale_answer(recorded.staleness(self._results))}
        if number == 9:
            return {"removal_answer": self._removal_answer()}
        return {}

    def _example(self) -> dict[str, str]:
        """A token of the story and its chunk: the answer's first token, where the story holds the sentence."""
        token, text, size = 1000, "…", self.numbers.shape.chunk_size
        try:
            story = self.numbers.story
            token = story.answer_token(story.places[0]) if story.places else min(token, len(story.token_ids) - 1)
            text = self._texts(token, token + 1)[0].strip()
        except LongMemError:
            pass  # without a story the sum is as good with any token
        return {
            "example_token": str(token),
            "example_text": text,
            "example_chunk": str(token // size),
            "example_rest": str(token % size),
            "example_place": str(token % size),
        }

    def _removal_answer(self) -> str:
        general = "Weight says where a head looked. The word comes out of all heads and layers together."
        try:
            whole, heaviest, *rest = self.numbers.removals
        except LongMemError:
            return general
        change = whole.probability - heaviest.probability
        kept = "hardly changed" if abs(change) < SAME else "fell" if change > 0 else "rose"
        token = shown(self.numbers.tokens[self.numbers.asked + 1])
        said_of_one = (
            f"Without the chunk of the largest weight the probability of {token} {kept}: {percent(whole.probability)} "
            f"before, {percent(heaviest.probability)} after."
        )
        if len(rest) < 2:
            return f"{said_of_one} {general}"
        return (
            f"{said_of_one} The sentence stands in the story {len(self.numbers.story.places)} times, and a head that "
            f"loses one place finds another; without all of them it is {percent(rest[0].probability)}. {general}"
        )


def memory_now(session: Session) -> MemoryNow | None:
    """What the drawing tells of a session; None while its memory is in use. A run that has just ended is waited for."""
    if not session.lock.acquire(timeout=PATIENCE):
        return None
    try:
        bank, run = session.bank, session.run
        gates = run.gates.groupby("layer")["gate"].mean().to_dict() if run is not None else {}
        return MemoryNow(bank.n_tokens, bank.n_chunks, bank.capacity, bank.nbytes, str(bank.device), gates)
    finally:
        session.lock.release()


def steps_list(number: int) -> str:
    """The nine steps as buttons; the current one is marked."""
    items = "".join(
        f'<li><button type="button" data-do="lesson-{i}"{_current(i == number)}><b>{i}</b> <span>{escape(step.title)}'
        "</span></button></li>"
        for i, step in enumerate(STEPS, start=1)
    )
    return f'<nav class="lm-steps" aria-label="Steps of the lesson"><ol>{items}</ol></nav>'


def charts_table(method: Method = LONGMEM) -> str:
    """The charts of the inspector in one sentence each, and the steps that explain them."""
    titles = {"gates": method.shares}
    rows = "".join(
        f'<tr><th scope="row">{titles.get(name, title)}</th><td>{escape(words)}</td>'
        f"<td>{button(f'Step {step}', f'lesson-{step}')}</td></tr>"
        for name, (title, words, step) in CHARTS.items()
    )
    return (
        '<section class="lm-summary"><h4>Now you can read every chart</h4><div class="lm-scroll"><table>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def gate_words(shape: ModelShape) -> str:
    """How the gate of this model comes about."""
    if shape.gate == "query":
        return (
            "In this model it is sigmoid(g + w · q), with a number g and a vector w that were learned and the query q: "
            "so every token has its own gate."
        )
    return (
        "In this model it is sigmoid(g), with a number g that was learned for each head: it is the same for all tokens."
    )


def stale_answer(rows: list[recorded.Aged]) -> str:
    """What the recorded curve says, in words."""
    if not rows:
        return "Nothing has been recorded here."
    last = rows[-1]
    worse = "higher, so worse" if last.memtrm_change > 0 else "lower, so no worse"
    return (
        f"After {last.step} steps its perplexity with the old keys was {100 * abs(last.memtrm_change):.1f} % {worse} "
        f"than with fresh ones. But the old keys found only {100 * last.memtrm_chunks:.0f} % of the same chunks, and "
        f"with LongMem it is {100 * last.longmem_chunks:.0f} %, however long it is trained."
    )


def loading(number: int) -> str:
    """What stands in a step until its numbers have been computed."""
    return _live(number, markup.note("Computing this with the model at hand…"))


def _live(number: int, inner: str) -> str:
    return f'<div class="lm-live" data-lesson="{number}">{inner}</div>'


def _way_on(number: int) -> str:
    back = button(f"‹ {STEPS[number - 2].title}", f"lesson-{number - 1}") if number > 1 else "<span></span>"
    on = button(f"{STEPS[number].title} ›", f"lesson-{number + 1}") if number < len(STEPS) else "<span></span>"
    place = f"{number} of {len(STEPS)}"
    return f'<nav class="lm-way" aria-label="Step {place}">{back}<span>{place}</span>{on}</nav>'


def _current(is_current: bool) -> str:
    return ' aria-current="step"' if is_current else ""
