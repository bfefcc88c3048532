"""What the API does: dictionaries out; errors are raised as LongMemError."""

from collections.abc import Iterator, Sequence

from app.generating import begin, check_prompt
from app.memory_handlers import MemoryHandlers, pasted
from app.settings import Settings
from app.studio import alone
from app.writing import write
from longmem.documents import Document
from longmem.errors import LongMemError
from longmem.generation import GeneratedToken
from longmem.memory_bank import MemoryBank


class ApiHandlers(MemoryHandlers):
    """The named endpoints."""

    def load_documents(self, key: str, paths: Sequence[str], texts: Sequence[str]) -> dict:
        """API: read files and texts into the session's memory, then its summary."""
        documents = [Document.from_file(path) for path in paths]
        documents += [pasted(f"text-{i}", text) for i, text in enumerate(texts, start=1)]
        with alone(self.store.get(key)) as session:
            session.stop_reading.clear()
            for _ in self._read_all(session, documents):
                pass
            return summary(session.bank)

    def generate_text(
        self, key: str, prompt: str, settings: dict, *, use_memory: bool, trace_ranks: int
    ) -> Iterator[dict]:
        """API: `text, tokens, effect` after every token; the last has `memory` and `trace` (its first ranks) too."""
        chosen = Settings(**settings)
        check_prompt(prompt)
        if not isinstance(trace_ranks, int) or isinstance(trace_ranks, bool) or trace_ranks < 0:
            raise LongMemError(f"trace_ranks is {trace_ranks!r}; it must be a whole number, 0 or more.")
        with alone(self.store.get(key)) as session:
            session.stop_generating.clear()
            bank = session.bank if use_memory else None
            writing = begin(self.model_of(session), prompt, chosen, bank, silence=self.silent_layers(session))
            tokens = []
            try:
                for (token,) in write([writing], session.stop_generating):
                    tokens.append(token)
                    yield result(tokens)
            finally:
                tokens += writing.end()
            frame = writing.generation.trace.to_frame()
            rows = frame[frame["rank"] < trace_ranks].to_dict("records")
            yield {**result(tokens), "memory": summary(session.bank), "trace": rows}

    def clear_memory(self, key: str) -> dict:
        """API: empty the session's memory, then its summary."""
        with alone(self.store.get(key)) as session:
            session.bank.clear()
            return summary(session.bank)

    def memory_summary(self, key: str) -> dict:
        """API: `documents` (id, name, tokens, chunks), `tokens`, `chunks`, `capacity`, `bytes`, `device`."""
        with alone(self.store.get(key)) as session:
            return summary(session.bank)


def result(tokens: list[GeneratedToken]) -> dict:
    """Tokens so far, as the API gives them; effects in nats."""
    return {
        "text": "".join(token.text for token in tokens),
        "tokens": [token.text for token in tokens],
        "effect": [round(token.effect, 6) for token in tokens],
    }


def summary(bank: MemoryBank) -> dict:
    """A bank in numbers, as the API gives them."""
    records = bank.documents.values()
    documents = [{"id": r.id, "name": r.name, "tokens": r.n_tokens, "chunks": r.n_chunks} for r in records]
    size = {"tokens": bank.n_tokens, "chunks": bank.n_chunks, "capacity": bank.capacity}
    return {"documents": documents, **size, "bytes": bank.nbytes, "device": str(bank.device)}
