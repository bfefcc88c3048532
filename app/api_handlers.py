"""What the API does: dictionaries out; errors are raised as LongMemError."""

import threading
from collections.abc import Collection, Iterator, Sequence

from app import scored
from app.generating import MAX_PROMPT, begin, check_prompt, effort_of, keep
from app.memory_handlers import MemoryHandlers, pasted
from app.scored import shortened
from app.session import Recipe, Session
from app.settings import Settings
from app.studio import NAMED, alone
from app.switches import Switches
from app.turns import Work
from app.writing import write
from app.zero_gpu import Effort
from longmem.documents import Document
from longmem.errors import LongMemError
from longmem.generation import GeneratedToken
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM
from longmem.scoring import look_up, score
from longmem.trace import RetrievalTrace


class ApiHandlers(MemoryHandlers):
    """The named endpoints."""

    def load_documents(self, key: str, paths: Sequence[str], texts: Sequence[str]) -> dict:
        """API: read files and texts into the session's memory, then its summary."""
        documents = [Document.from_file(path) for path in paths]
        documents += [pasted(f"text-{i}", text) for i, text in enumerate(texts, start=1)]
        with alone(self.store.get(key)) as session, session.stops.working(Work.READING) as stop:
            for _ in self.read_all(session, documents, stop):
                pass
            return summary(session.bank, key)

    def generate_text(
        self, key: str, prompt: str, settings: dict, *, use_memory: bool, trace_ranks: int
    ) -> Iterator[dict]:
        """API: `text, tokens, effect` after every token; the last has `memory` and `trace` (its first ranks) too."""
        chosen = Settings(**settings)
        check_prompt(prompt)
        check_ranks(trace_ranks)
        with alone(self.store.get(key)) as session, session.stops.working(Work.GENERATING) as stop:
            arguments = (prompt, chosen, use_memory, self.silent_layers(session), trace_ranks)
            effort = effort_of(self.model, prompt, chosen)
            for found in self.work(write_text, session, *arguments, effort=effort, stop=stop):
                memory = {"memory": summary(session.bank, key)} if "trace" in found else {}
                yield {**found, **memory, **self.labels}

    def retrieve(self, key: str, text: str, *, trace_ranks: int) -> dict:
        """API: what each token of a phrase looks up: `tokens` and `trace`."""
        check_ranks(trace_ranks)
        check_prompt(text)
        with alone(self.store.get(key)) as session:
            effort = scored.effort_of(self.model)
            trace = self.ask(look_up_text, session, text, self.silent_layers(session), effort=effort)
        return {"tokens": trace.tokens, "trace": rows_of(trace, trace_ranks), **self.labels}

    def score_text(self, key: str, text: str, context: str, *, trace_ranks: int) -> dict:
        """API: what memory does to every token of a text: `tokens, logprob, logprob_empty, effect` (nats), `trace`."""
        check_ranks(trace_ranks)
        check_prompt(text)
        check_context(context)
        with alone(self.store.get(key)) as session:
            silence, effort = self.silent_layers(session), Effort(read=2 * (len(context) + scored.MOST_SCORED))
            trace = self.ask(score_kept, session, text, context, silence, effort=effort)
        numbers = {"logprob": trace.logprobs, "logprob_empty": trace.logprobs_empty, "effect": trace.effects}
        rounded = {name: [round(x, 6) for x in values] for name, values in numbers.items()}
        return {"tokens": trace.tokens, **rounded, "trace": rows_of(trace, trace_ranks), **self.labels}

    def what_if(self, key: str, text: str, context: str, off: dict) -> dict:
        """API: log-probabilities of a text's tokens as they are and with something off: `logprob, logprob_off`.

        off: any of chunks, documents, layers (ids or numbers) and heads ([layer, head]).
        """
        check_prompt(text)
        check_context(context)
        if not isinstance(off, dict):
            raise LongMemError("off must be an object such as {'layers': [4]}.")
        switches = Switches()
        for kind, values in off.items():
            switches = switches.toggled(kind, values)
        with alone(self.store.get(key)) as session:
            silence, effort = self.silent_layers(session), Effort(read=4 * (len(context) + scored.MOST_SCORED))
            was, now = self.ask(score_with_and_without, session, text, context, silence, switches, effort=effort)
        pairs = {"logprob": was.logprobs, "logprob_off": now.logprobs}
        rounded = {name: [round(x, 6) for x in values] for name, values in pairs.items()}
        return {"tokens": was.tokens, **rounded, **self.labels}

    def clear_memory(self, key: str) -> dict:
        """API: empty the session's memory, then its summary."""
        with alone(self.store.get(key)) as session:
            session.bank.clear()
            return summary(session.bank, key)

    def memory_summary(self, key: str) -> dict:
        """API: `memory`, `documents` (id, name, tokens, chunks), `tokens`, `chunks`, `capacity`, `bytes`, `device`."""
        with alone(self.store.get(key)) as session:
            return summary(session.bank, key)


# What needs the model: functions of their own, so that a worker can be given them.

Silence = Collection[tuple[int, int | None]]


def write_text(
    model: LongMemForCausalLM,
    session: Session,
    prompt: str,
    chosen: Settings,
    use_memory: bool,
    silence: Silence,
    trace_ranks: int,
    *,
    stop: threading.Event,
) -> Iterator[dict]:
    """`result` after every token; the last has `trace` too, and with memory it is the session's run."""
    writing = begin(model, prompt, chosen, session.bank if use_memory else None, silence=silence)
    tokens = []
    try:
        for (token,) in write([writing], stop):
            tokens.append(token)
            yield result(tokens)
    finally:
        tokens += writing.end()
    whole = writing.generation.trace
    if use_memory and tokens:
        recipe = Recipe("generated", prompt, None, chosen, session.memory_version, tuple(silence), model.label)
        keep(session, recipe, whole, writing.generation.running.text)
    yield {**result(tokens), "trace": rows_of(whole, trace_ranks)}


def look_up_text(model: LongMemForCausalLM, session: Session, text: str, silence: Silence) -> RetrievalTrace:
    """What a phrase looks up, as far as it is not too long."""
    return look_up(model, shortened(model, text), memory=session.bank, silence=silence)


def score_kept(
    model: LongMemForCausalLM, session: Session, text: str, context: str, silence: Silence
) -> RetrievalTrace:
    """A scored text, which is the session's run then."""
    text = shortened(model, text)
    trace = score(model, text, context=context, memory=session.bank, silence=silence)
    prompt = context or text[: len(text) - len("".join(trace.tokens))]
    recipe = Recipe("scored", prompt, None, None, session.memory_version, tuple(silence), model.label)
    keep(session, recipe, trace, context + text)
    return trace


def score_with_and_without(
    model: LongMemForCausalLM, session: Session, text: str, context: str, silence: Silence, switches: Switches
) -> tuple[RetrievalTrace, RetrievalTrace]:
    """A text scored as it is, and with something off."""
    text, options = shortened(model, text), {"context": context, "memory": session.bank}
    switched = {"exclude": switches.exclude(session.bank), "silence": [*silence, *switches.silence]}
    return score(model, text, **options, silence=silence), score(model, text, **options, **switched)


def check_context(context: str) -> None:
    """Errors: LongMemError where the text before is too long."""
    if len(context) > MAX_PROMPT:
        raise LongMemError(f"The context has {len(context):,} characters; at most {MAX_PROMPT:,} are allowed.")


def result(tokens: list[GeneratedToken]) -> dict:
    """Tokens so far, as the API gives them; effects in nats."""
    return {
        "text": "".join(token.text for token in tokens),
        "tokens": [token.text for token in tokens],
        "effect": [round(token.effect, 6) for token in tokens],
    }


def check_ranks(trace_ranks: object) -> None:
    """Errors: LongMemError for what is no number of ranks."""
    if not isinstance(trace_ranks, int) or isinstance(trace_ranks, bool) or trace_ranks < 0:
        raise LongMemError(f"trace_ranks is {trace_ranks!r}; it must be a whole number, 0 or more.")


def rows_of(trace: RetrievalTrace, trace_ranks: int) -> list[dict]:
    """The first ranks of a trace, as the API gives them."""
    frame = trace.to_frame()
    return frame[frame["rank"] < trace_ranks].to_dict("records")


def summary(bank: MemoryBank, key: str) -> dict:
    """A bank in numbers, as the API gives them; `memory` is the id of one that outlives its client."""
    records = bank.documents.values()
    documents = [{"id": r.id, "name": r.name, "tokens": r.n_tokens, "chunks": r.n_chunks} for r in records]
    size = {"tokens": bank.n_tokens, "chunks": bank.n_chunks, "capacity": bank.capacity}
    own = {"memory": key if key.startswith(NAMED) else ""}
    return {**own, "documents": documents, **size, "bytes": bank.nbytes, "device": str(bank.device)}
