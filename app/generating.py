"""Two texts from one prompt and seed, with memory and with an empty memory, growing side by side."""

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import exp

from app import inspection, markup
from app.markup import TokenMark
from app.session import OWN_TEXT, Recipe, Run, Session, Source, memory_map, with_own_text
from app.settings import Place, Settings
from app.switches import Switches
from app.writing import Writing, write
from app.zero_gpu import Effort
from longmem.errors import LongMemError
from longmem.generation import GeneratedToken, stream
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM
from longmem.scoring import continuation_point
from longmem.trace import RetrievalTrace

MAX_PROMPT = 20_000  # characters


@dataclass(frozen=True)
class RunView:
    """The output panels as HTML and the inspector's data, `payload`; None leaves one as it is on the page."""

    with_memory: str | None
    plain: str | None
    status: str
    notice: str = ""
    payload: dict | None = None
    busy: bool = False


class Pair:
    """The tokens of both texts so far, and how fast they come."""

    def __init__(self, prompt: str, n_wanted: int, run: int):
        self.prompt, self.run = prompt, run
        self.n_wanted = n_wanted
        self.remembered: list[GeneratedToken] = []
        self.plain: list[GeneratedToken] = []
        self._began = self._latest = time.monotonic()

    def add(self, token: GeneratedToken | None, other: GeneratedToken | None) -> None:
        """One more token of each text; None for one that has ended."""
        self.remembered += [token] if token is not None else []
        self.plain += [other] if other is not None else []
        self._latest = time.monotonic()

    def view(self, ended: str = "", payload: dict | None = None) -> RunView:
        """Both panels now; `ended` is empty while running, else "done", "stopped" or "failed"."""
        n_tokens = len(self.remembered)
        rate = n_tokens / max(self._latest - self._began, 1e-9)
        speed = f"{n_tokens} of {self.n_wanted} tokens · {rate:.1f} tokens/s"
        words = {
            "": "Writing",
            "done": "Done",
            "stopped": "Stopped, the text stays",
            "failed": "Failed, the text stays",
        }
        running = not ended
        return RunView(
            self._panel(self.remembered, self.plain, "with", running),
            self._panel(self.plain, self.remembered, "plain", running),
            status=markup.note(f"{words[ended]}: {speed}", ended or "info"),
            payload=payload,
            busy=running,
        )

    def _panel(self, tokens: list[GeneratedToken], others: list[GeneratedToken], panel: str, running: bool) -> str:
        return markup.token_panel(self.prompt, marks(tokens, others), panel=panel, run=self.run, running=running)


def generate_pair(
    model: LongMemForCausalLM,
    session: Session,
    prompt: str,
    settings: Settings,
    place: Place | None,
    silence: Collection[tuple[int, int | None]] = (),
    *,
    stop: threading.Event,
) -> Iterator[RunView]:
    """Generate both texts, a view after every token of each, until they end or `stop` is set.

    The last view carries the payload, the session the run.
    With a `place` the text before it is the prompt and memory is searched only before it. Hold the session's lock.
    """
    before = None
    if place is None:
        check_prompt(prompt)
    elif place.document in session.bank.documents:
        at = place.character(session.bank.documents[place.document].text)
        prompt, before = continuation_point(model, session.bank, place.document, at)
    else:
        raise LongMemError("The document to continue is not in memory: choose one that is.")
    session.written = None
    pair = Pair(prompt, settings.max_new_tokens, next_run(session))
    yield pair.view()
    remembered = begin(model, prompt, settings, session.bank, before, silence=silence)
    plain = begin(model, prompt, settings, None)
    try:
        for tokens in write([remembered, plain], stop):
            pair.add(*tokens)
            yield pair.view()
        ended = "stopped" if stop.is_set() else "done"
        yield pair.view(ended)  # the text stands before its threads have ended and its trace is put together
    except Exception:
        yield pair.view("failed")
        raise
    finally:
        pair.remembered += remembered.end()
        plain.end()
    if pair.remembered:
        session.written = remembered.generation.written
        recipe = Recipe("generated", prompt, before, settings, session.memory_version, tuple(silence), model.label)
        payload = keep(session, recipe, remembered.generation.trace, remembered.generation.running.text)
        yield pair.view(ended, payload)


def continuation(session: Session, more: str, *, keep: bool) -> str:
    """The prompt that goes on from the last text, with `more` words after it.

    With `keep` what has left the window enters the bank as a document, and the prompt is what is still in the window.
    Hold the session's lock. Errors: LongMemError where there is no text.
    """
    written = session.written
    if written is None:
        raise LongMemError("There is no text to continue: generate one first.")
    text = written.text
    if keep and written.n_left:
        text = written.window_text
        written.commit(session.bank)
        session.written = None  # it enters memory once
    return (text + more)[-MAX_PROMPT:]


def begin(
    model: LongMemForCausalLM,
    prompt: str,
    settings: Settings,
    bank: MemoryBank | None,
    before: tuple[int, int] | None = None,
    *,
    written: Sequence[int] = (),
    exclude: Collection[int] = (),
    silence: Collection[tuple[int, int | None]] = (),
) -> Writing:
    """Begin one text, or take it up behind the tokens `written`.

    It gets a stop event of its own: a generation sets its event when it ends.
    """
    stop = threading.Event()
    generation = stream(
        model,
        prompt,
        memory=bank,
        written=written,
        before=before,
        exclude=exclude,
        silence=silence,
        max_new_tokens=max(1, int(settings.max_new_tokens) - len(written)),
        temperature=settings.temperature or 1.0,
        top_p=settings.top_p,
        greedy=settings.temperature == 0,
        seed=int(settings.seed),
        stop=stop,
    )
    return Writing(generation, stop)


def keep(session: Session, recipe: Recipe, trace: RetrievalTrace, own_text: str) -> dict:
    """Make a trace the session's run, with all that the inspector needs; it outlives changes of the bank.

    own_text: what stood in the window and may have been retrieved after leaving it. Returns the inspector's data.
    """
    frame = trace.to_frame()
    sources = {i: Source(record.name, record.text) for i, record in session.bank.documents.items()}
    session.run = Run(
        number=next_run(session),
        recipe=recipe,
        tokens=trace.tokens_frame(),
        trace=frame,
        gates=trace.gates_frame(),
        token_weights=trace.token_weights(),
        chunks=with_own_text(memory_map(session.bank), frame),
        sources={**sources, OWN_TEXT: Source("this text", own_text)},
    )
    payload = inspection.describe(session.run)
    session.chosen, session.head, session.switches = (payload["focus"], payload["layer"]), None, Switches()
    return payload


def effort_of(model: LongMemForCausalLM, prompt: str, settings: Settings) -> Effort:
    """Of two texts from a prompt, or from half a window of a document; a character is a token at most."""
    return Effort(read=2 * (len(prompt) + model.config.window), written=2 * settings.max_new_tokens)


def next_run(session: Session) -> int:
    """The number of the run that is being made."""
    return session.run.number + 1 if session.run else 1


def marks(tokens: list[GeneratedToken], others: list[GeneratedToken]) -> list[TokenMark]:
    """Tokens for a panel; the first one that is another than the other text's is marked: there the texts part."""
    pairs = zip(tokens, others, strict=False)
    parting = next((token.step for token, other in pairs if token.token_id != other.token_id), None)
    return [
        TokenMark(t.step, t.text, exp(t.logprob), exp(t.logprob_empty), t.effect, t.step == parting) for t in tokens
    ]


def check_prompt(prompt: str) -> None:
    """Errors: LongMemError where a prompt is empty or too long."""
    if not prompt.strip():
        raise LongMemError("The prompt is empty: write the words that the model shall go on from.")
    if len(prompt) > MAX_PROMPT:
        raise LongMemError(f"The prompt has {len(prompt):,} characters; at most {MAX_PROMPT:,} are allowed.")
