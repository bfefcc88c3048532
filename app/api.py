"""The named endpoints, for `gradio_client` and as MCP tools. Each client has a memory of its own.

`memory` in every endpoint says whose memory is meant: "" the client's own, which goes when it leaves; "new" a fresh one
whose id the answer gives; or such an id, which any client that knows it may use until it has rested for an hour.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from app.handlers import Studio
from app.memory_panel import FILE_TYPES
from app.settings import Settings
from longmem.errors import LongMemError

TURN = {"concurrency_id": "model", "concurrency_limit": 1}


def add_api(studio: Studio) -> None:
    """Register all endpoints; must run inside the `gr.Blocks`. A client's mendable error reaches it in words."""
    _add_memory_endpoints(studio)
    _add_model_endpoints(studio)


def _add_memory_endpoints(studio: Studio) -> None:
    def load_documents(
        files: list[str] | None = None, texts: list | None = None, memory: str = "", request: gr.Request = None
    ) -> dict:
        """Read files, and a list of texts, into a memory bank; returns what is in memory then.

        Args:
            files: txt, md, html, pdf, epub or docx.
            texts: strings.
            memory: "" for this client's own, "new", or the id of one.
        """
        if not isinstance(texts or [], list) or not all(isinstance(text, str) for text in texts or []):
            raise gr.Error("texts must be a list of strings.", print_exception=False)
        with _errors_for_clients():
            return studio.load_documents(studio.key_of(request.session_hash, memory or ""), files or [], texts or [])

    def clear_memory(memory: str = "", request: gr.Request = None) -> dict:
        """Empty a memory bank; returns what is in memory then.

        Args:
            memory: "" for this client's own, or the id of one.
        """
        with _errors_for_clients():
            return studio.clear_memory(studio.key_of(request.session_hash, memory))

    def memory_summary(memory: str = "", request: gr.Request = None) -> dict:
        """What is in a memory bank: its id, documents, tokens, chunks, capacity, bytes and device.

        Args:
            memory: "" for this client's own, "new", or the id of one.
        """
        with _errors_for_clients():
            return studio.memory_summary(studio.key_of(request.session_hash, memory))

    # Components that are never shown: an upload must be checked by gr.File, a plain `str` would be any server path.
    files = gr.File(label="files", file_count="multiple", file_types=FILE_TYPES, visible=False)
    texts, summary = gr.JSON(label="texts", visible=False), gr.JSON(label="memory", visible=False)
    memory = gr.Textbox("", label="memory", visible=False)
    gr.Button(visible=False).click(load_documents, [files, texts, memory], summary, api_name="load_documents", **TURN)
    gr.api(clear_memory, api_name="clear_memory")
    gr.api(memory_summary, api_name="memory_summary")


def _add_model_endpoints(studio: Studio) -> None:
    def generate(
        prompt: str,
        max_new_tokens: int = Settings.max_new_tokens,
        temperature: float = Settings.temperature,
        top_p: float = Settings.top_p,
        seed: int = Settings.seed,
        use_memory: bool = True,
        trace_ranks: int = 4,
        memory: str = "",
        request: gr.Request = None,
    ) -> Iterator[dict]:
        """Go on from a prompt, streaming; the last object holds text, tokens, effect (nats), memory and trace.

        Args:
            prompt: the text to go on from.
            max_new_tokens: 1 to 256.
            temperature: 0 (no chance) to 5.
            top_p: share of the probability that is sampled from, above 0 to 1.
            seed: of the sampling.
            use_memory: retrieve from the bank, or not.
            trace_ranks: so many retrieved chunks of every token, layer and head are in the trace.
            memory: "" for this client's own, or the id of one.
        """
        settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
        with _errors_for_clients():
            key = studio.key_of(request.session_hash, memory)
            yield from studio.generate_text(
                key, str(prompt), settings, use_memory=bool(use_memory), trace_ranks=trace_ranks
            )

    def retrieve(text: str, trace_ranks: int = 4, memory: str = "", request: gr.Request = None) -> dict:
        """What every token of a phrase looks up in memory, in every layer and head, without generating anything.

        Args:
            text: a phrase.
            trace_ranks: so many chunks for every token, layer and head.
            memory: "" for this client's own, or the id of one.
        """
        with _errors_for_clients():
            return studio.retrieve(studio.key_of(request.session_hash, memory), str(text), trace_ranks=trace_ranks)

    def score(text: str, context: str = "", trace_ranks: int = 4, memory: str = "", request: gr.Request = None) -> dict:
        """What memory does to every token of a given text: log-probabilities with and without memory, in nats.

        Args:
            text: the text to score.
            context: what stands before it and is not scored.
            trace_ranks: so many retrieved chunks of every token, layer and head are in the trace.
            memory: "" for this client's own, or the id of one.
        """
        with _errors_for_clients():
            key = studio.key_of(request.session_hash, memory)
            return studio.score_text(key, str(text), str(context), trace_ranks=trace_ranks)

    def what_if(text: str, off: dict, context: str = "", memory: str = "", request: gr.Request = None) -> dict:
        """Log-probabilities (nats) of a text's tokens as they are, and with parts of memory switched off.

        Args:
            text: the text to score.
            off: any of "chunks", "documents", "layers" (lists of numbers) and "heads" (lists of [layer, head]).
            context: what stands before it and is not scored.
            memory: "" for this client's own, or the id of one.
        """
        with _errors_for_clients():
            return studio.what_if(studio.key_of(request.session_hash, memory), str(text), str(context), off)

    for function in (generate, retrieve, score, what_if):
        gr.api(function, api_name=function.__name__, **TURN)


@contextmanager
def _errors_for_clients() -> Iterator[None]:
    """A LongMemError becomes the error that Gradio passes on to clients; others stay in the server's log."""
    try:
        yield
    except LongMemError as error:
        raise gr.Error(str(error), print_exception=False) from error
