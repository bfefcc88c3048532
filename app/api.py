"""The named endpoints, for `gradio_client` and as MCP tools. Each client has a memory of its own.

`memory` in every endpoint says whose memory is meant: "" the client's own, which goes when it leaves; "new" a fresh one
whose id the answer gives; or such an id, which any client that knows it may use until it has rested for an hour.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path

import gradio as gr

from app import demonstration_api, demonstration_files
from app.bundle import SUFFIX, load_bundle
from app.downloads import Downloads
from app.export_handlers import KINDS, MEMORY, make_file
from app.handlers import Studio
from app.memory_panel import FILE_TYPES
from app.settings import Settings
from app.turns import Work
from longmem.demonstrations import SENTIMENT_TEMPLATE
from longmem.errors import LongMemError

TURN = {"concurrency_id": "model", "concurrency_limit": 1}


def add_api(studio: Studio, downloads: Downloads) -> None:
    """Register all endpoints; must run inside the `gr.Blocks`. A client's mendable error reaches it in words."""
    _add_memory_endpoints(studio)
    _add_generation_endpoint(studio)
    _add_judging_endpoints(studio)
    _add_demonstration_endpoints(studio)
    _add_file_endpoints(studio, downloads)


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
        studio.uploads.claim(request.session_hash, files or [])
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
    # MCP tools refuse the type of gr.JSON, which is anything.
    texts.api_info = lambda: {"type": "array", "items": {"type": "string"}, "description": "a list of strings"}
    memory = gr.Textbox("", label="memory", visible=False)
    gr.Button(visible=False).click(load_documents, [files, texts, memory], summary, api_name="load_documents", **TURN)
    gr.api(clear_memory, api_name="clear_memory")
    gr.api(memory_summary, api_name="memory_summary")


def _add_generation_endpoint(studio: Studio) -> None:
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

    gr.api(generate, api_name="generate", **TURN)


def _add_judging_endpoints(studio: Studio) -> None:
    """What is asked of a text that is given: nothing is written."""

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

    for function in (retrieve, score, what_if):
        gr.api(function, api_name=function.__name__, **TURN)


def _add_demonstration_endpoints(studio: Studio) -> None:
    columns = [gr.Textbox("text", label="text_column", visible=False)]
    columns.append(gr.Textbox("label", label="label_column", visible=False))
    memory = gr.Textbox("", label="memory", visible=False)
    examples = gr.File(label="file", file_types=demonstration_files.FILE_TYPES, visible=False)
    answer = gr.JSON(label="answer", visible=False)
    button = gr.Button(visible=False)
    _add_examples_endpoint(studio, button, [examples, *columns], memory, answer)
    _add_classification_endpoints(studio, button, [examples, *columns], memory, answer)


def _add_examples_endpoint(studio: Studio, button: gr.Button, file: list, memory: gr.Textbox, answer: gr.JSON) -> None:
    def load_demonstrations(
        file: str,
        text_column: str = "text",
        label_column: str = "label",
        template: str = SENTIMENT_TEMPLATE.pattern,
        skip_wrong: bool = False,
        memory: str = "",
        request: gr.Request = None,
    ) -> dict:
        """Read labelled examples (CSV, TSV or JSONL) into a memory bank, as one document.

        Args:
            file: the examples.
            text_column: name of the column with the texts.
            label_column: name of the column with the labels.
            template: how an example is written, with {text} and {label}.
            skip_wrong: leave out rows that cannot be used; otherwise they are an error that lists them.
            memory: "" for this client's own, "new", or the id of one.
        """
        with _errors_for_clients():
            return demonstration_api.load_demonstrations(
                studio,
                studio.key_of(request.session_hash, memory),
                _given(studio, request, file),
                text_column=text_column,
                label_column=label_column,
                template=template,
                skip_wrong=bool(skip_wrong),
            )

    template = gr.Textbox(SENTIMENT_TEMPLATE.pattern, label="template", visible=False)
    skip = gr.Checkbox(False, label="skip_wrong", visible=False)
    inputs = [*file, template, skip, memory]
    button.click(load_demonstrations, inputs, answer, api_name="load_demonstrations", **TURN)


def _add_classification_endpoints(
    studio: Studio, button: gr.Button, file: list, memory: gr.Textbox, answer: gr.JSON
) -> None:
    def classify(text: str, in_window: int = 4, memory: str = "", request: gr.Request = None) -> dict:
        """Classify a text by the demonstrations in memory: labels, probabilities with and without memory, the vote.

        Args:
            text: what to classify.
            in_window: so many demonstrations stand in the window too.
            memory: "" for this client's own, or the id of one.
        """
        with _errors_for_clients():
            key = studio.key_of(request.session_hash, memory)
            return demonstration_api.classify(studio, key, str(text), in_window=in_window)

    def evaluate_demonstrations(
        file: str,
        text_column: str = "text",
        label_column: str = "label",
        n_texts: int = 40,
        memory: str = "",
        request: gr.Request = None,
    ) -> dict:
        """Accuracy on a test file (CSV, TSV or JSONL) against the number of demonstrations in memory.

        Args:
            file: the test examples.
            text_column: name of the column with the texts.
            label_column: name of the column with the labels.
            n_texts: at most so many of them.
            memory: "" for this client's own, or the id of one.
        """
        with _errors_for_clients():
            key = studio.key_of(request.session_hash, memory)
            options = {"text_column": text_column, "label_column": label_column, "n_texts": n_texts}
            return demonstration_api.evaluate_demonstrations(studio, key, _given(studio, request, file), **options)

    n_texts = gr.Number(40, label="n_texts", precision=0, visible=False)
    gr.api(classify, api_name="classify", **TURN)
    inputs = [*file, n_texts, memory]
    button.click(evaluate_demonstrations, inputs, answer, api_name="evaluate_demonstrations", **TURN)


def _add_file_endpoints(studio: Studio, downloads: Downloads) -> None:
    def save_memory(with_states: bool = False, memory: str = "", request: gr.Request = None) -> str:
        """A memory bank as a file: its texts and settings, and if wanted keys and values.

        Args:
            with_states: keys and values too; otherwise the texts are read again when the file is loaded.
            memory: "" for this client's own, or the id of one.
        """
        return made(request, memory, MEMORY, bool(with_states))

    def load_memory(file: str, memory: str = "", request: gr.Request = None) -> dict:
        """Load a memory that was saved; returns what is in memory then.

        Args:
            file: a .longmem file.
            memory: "" for this client's own, "new", or the id of one.
        """
        with _errors_for_clients():
            key = studio.key_of(request.session_hash, memory)
            studio.prepare(key, Work.READING)
            for view in load_bundle(studio, key, Path(_given(studio, request, file))):
                problem = view.memory.notice
            if problem:
                raise LongMemError(unescape(re.sub(r"<[^>]+>|×", "", problem)))
            return studio.memory_summary(key)

    def export_trace(format: str = "csv", memory: str = "", request: gr.Request = None) -> str:
        """The tables of this client's last generated or scored text, as a file.

        Args:
            format: csv, csv-zip, parquet, json, or report (HTML).
            memory: "" for this client's own, or the id of one.
        """
        return made(request, memory, format, False)

    def made(request: gr.Request, memory: str, kind: str, with_states: bool) -> str:
        with _errors_for_clients():
            key = studio.key_of(request.session_hash, memory)
            if kind not in KINDS:
                raise LongMemError(f"format is {str(kind)[:40]!r}; it must be one of {', '.join(KINDS)}.")
            return str(make_file(studio, downloads, studio.store.get(key), kind, with_states))

    memory = gr.Textbox("", label="memory", visible=False)
    file, given = gr.File(label="file", visible=False), gr.File(label="file", file_types=[SUFFIX], visible=False)
    states = gr.Checkbox(False, label="with_states", visible=False)
    format = gr.Textbox("csv", label="format", visible=False)
    summary = gr.JSON(label="memory", visible=False)
    button = gr.Button(visible=False)
    button.click(save_memory, [states, memory], file, api_name="save_memory")
    button.click(load_memory, [given, memory], summary, api_name="load_memory", **TURN)
    button.click(export_trace, [format, memory], file, api_name="export_trace")


def _given(studio: Studio, request: gr.Request, file: str | None) -> str:
    """The path that the server gave to a client's upload. Errors: LongMemError where there is none."""
    if not file:
        raise LongMemError("file is missing: give one.")
    studio.uploads.claim(request.session_hash, [file])
    return file


@contextmanager
def _errors_for_clients() -> Iterator[None]:
    """A LongMemError becomes the error that Gradio passes on to clients; others stay in the server's log."""
    try:
        yield
    except LongMemError as error:
        raise gr.Error(str(error), print_exception=False) from error
