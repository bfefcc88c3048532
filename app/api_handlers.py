"""What the API does: dictionaries out; errors are raised as LongMemError."""

from collections.abc import Iterator, Sequence

from app.generating import MAX_PROMPT, begin, check_prompt, keep
from app.memory_handlers import MemoryHandlers, pasted
from app.scored import shortened
from app.session import Recipe
from app.settings import Settings
from app.studio import NAMED, alone
from app.switches import Switches
from app.turns import Work
from app.writing import write
from longmem.documents import Document
from longmem.errors import LongMemError
from longmem.generation import GeneratedToken
from longmem.memory_bank import MemoryBank
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
            bank, silence = session.bank if use_memory else None, self.silent_layers(session)
            writing = begin(self.model_of(session), prompt, chosen, bank, silence=silence)
            tokens = []
            try:
                for (token,) in write([writing], stop):
                    tokens.append(token)
                    yield {**result(tokens), **self.labels}
            finally:
                tokens += writing.end()
            whole = writing.generation.trace
            if use_memory and tokens:
                recipe = Recipe(
                    "generated", prompt, None, chosen, session.memory_version, tuple(silence), self.model.label
                )
                keep(session, recipe, whole, writing.generation.running.text)
            trace = rows_of(whole, trace_ranks)
            yield {**result(tokens), "memory": summary(session.bank, key), "trace": trace, **self.labels}

    def retrieve(self, key: str, text: str, *, trace_ranks: int) -> dict:
        """API: what each token of a phrase looks up: `tokens` and `trace`."""
        check_ranks(trace_ranks)
        check_prompt(text)
        with alone(self.store.get(key)) as session:
            options = {"memory": session.bank, "silence": self.silent_layers(session)}
            trace = look_up(self.model_of(session), shortened(self.model, text), **options)
        return {"tokens": trace.tokens, "trace": rows_of(trace, trace_ranks), **self.labels}

    def score_text(self, key: str, text: str, context: str, *, trace_ranks: int) -> dict:
        """API: what memory does to every token of a text: `tokens, logprob, logprob_empty, effect` (nats), `trace`."""
        check_ranks(trace_ranks)
        check_prompt(text)
        check_context(context)
        with alone(self.store.get(key)) as session:
            text = shortened(self.model, text)
            options = {"memory": session.bank, "silence": self.silent_layers(session)}
            trace = score(self.model_of(session), text, context=context, **options)
            prompt = context or text[: len(text) - len("".join(trace.tokens))]
            recipe = Recipe(
                "scored", prompt, None, None, session.memory_version, tuple(options["silence"]), self.model.label
            )
            keep(session, recipe, trace, context + text)
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
            model, silence = self.model_of(session), self.silent_layers(session)
            options = {"context": context, "memory": session.bank}
            was = score(model, shortened(model, text), **options, silence=silence)
            switched = {"exclude": switches.exclude(session.bank), "silence": [*silence, *switches.silence]}
            now = score(model, shortened(model, text), **options, **switched)
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
