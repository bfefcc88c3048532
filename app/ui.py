"""The page: three regions, memory (sidebar), work (tabs) and inspector, and the named API endpoints."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr

from app import theme
from app.export_panel import build_export_panel, wire_export_panel
from app.generate_tab import build_generate_tab, wire_generate_tab
from app.handlers import Studio
from app.inspector_panel import build_inspector_panel, wire_inspector_panel
from app.memory_panel import FILE_TYPES, build_memory_panel, wire_memory_panel
from app.reading import SAMPLES, SampleShelf
from app.session import GIB, SessionStore
from app.settings import Settings
from longmem.errors import LongMemError
from longmem.model import LongMemForCausalLM

ASSETS = Path(__file__).parent.parent / "assets"
# A cross on a note takes the note away.
DISMISS_SCRIPT = """
element.addEventListener('click', (event) => { if (event.target.closest('[data-dismiss]')) props.value = ''; });
"""


def build(
    model: LongMemForCausalLM, *, byte_budget: int = 4 * GIB, samples: Path = SAMPLES, read_opening_sample: bool = True
) -> gr.Blocks:
    """The studio over `model`: a page and an API. All sessions' banks together stay within `byte_budget` bytes."""
    shelf = SampleShelf(model, samples)
    studio = Studio(model, SessionStore(model.new_bank, byte_budget=byte_budget), shelf)
    if read_opening_sample:  # while the page is being built and fetched
        threading.Thread(target=shelf.opening_bank, name="longmem-sample", daemon=True).start()
    with gr.Blocks(title="LongMem studio", fill_width=True, analytics_enabled=False, delete_cache=(3600, 3600)) as demo:
        with gr.Sidebar(width=336, elem_id="lm-memory"):
            memory = build_memory_panel(studio)
        notice = gr.HTML(elem_id="lm-notice", js_on_load=DISMISS_SCRIPT)
        with gr.Row(elem_id="lm-studio"):
            with gr.Column(scale=11, min_width=320, elem_id="lm-work"), gr.Tabs(elem_id="lm-tabs"):
                with gr.Tab("Generate", id="generate"):
                    tab = build_generate_tab()
            with gr.Column(scale=9, min_width=320, elem_id="lm-look"):
                inspector = build_inspector_panel()
                export = build_export_panel()
        wire_memory_panel(demo, studio, memory, notice, tab.document)
        run_ended = wire_generate_tab(studio, tab, notice, inspector.details)
        run_loaded = wire_export_panel(demo, studio, export, tab, memory, inspector, notice)
        wire_inspector_panel(demo, studio, inspector, [run_ended, run_loaded])

        def leave(request: gr.Request) -> None:
            studio.leave(request.session_hash)

        demo.unload(leave)
        _add_api(studio)
    return demo.queue(max_size=32, default_concurrency_limit=4)


def launch_options() -> dict:
    """Arguments for `launch`: the look, and a server that gives away nothing that it need not."""
    fonts = [
        gr.themes.LocalFont(name, weights=(400, 700)) for name in (theme.UI_FONT, theme.MONO_FONT)
    ]  # in Gradio's box: no network
    look = gr.themes.Base(font=[fonts[0], "sans-serif"], font_mono=[fonts[1], "monospace"])
    return {
        "theme": look.set(**theme.gradio_variables()),
        "css": "\n".join([theme.css_variables(), *(path.read_text("utf-8") for path in sorted(ASSETS.glob("*.css")))]),
        "max_file_size": "64mb",
        "allowed_paths": [],
        "show_error": False,
        "state_session_capacity": 64,
        "enable_monitoring": False,
        "run_history": False,
        "ssr_mode": False,
        "footer_links": ["api"],
    }


def _add_api(studio: Studio) -> None:
    """The four named endpoints; each client has its own session. An error that a person can mend reaches the client."""

    def load_documents(files: list[str] | None = None, texts: list | None = None, request: gr.Request = None) -> dict:
        """Read files, and a list of texts, into this client's memory bank; returns what is in memory then."""
        if not isinstance(texts or [], list) or not all(isinstance(text, str) for text in texts or []):
            raise gr.Error("texts must be a list of strings.", print_exception=False)
        with _errors_for_clients():
            return studio.load_documents(request.session_hash, files or [], texts or [])

    def generate(
        prompt: str,
        max_new_tokens: int = Settings.max_new_tokens,
        temperature: float = Settings.temperature,
        top_p: float = Settings.top_p,
        seed: int = Settings.seed,
        use_memory: bool = True,
        trace_ranks: int = 4,
        request: gr.Request = None,
    ) -> Iterator[dict]:
        """Go on from a prompt, streaming; the last object holds text, tokens, effect (nats), memory and trace."""
        settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
        with _errors_for_clients():
            yield from studio.generate_text(
                request.session_hash, str(prompt), settings, use_memory=bool(use_memory), trace_ranks=trace_ranks
            )

    def clear_memory(request: gr.Request) -> dict:
        """Empty this client's memory bank; returns what is in memory then."""
        with _errors_for_clients():
            return studio.clear_memory(request.session_hash)

    def memory_summary(request: gr.Request) -> dict:
        """What is in this client's memory bank: documents, tokens, chunks, capacity, bytes and device."""
        with _errors_for_clients():
            return studio.memory_summary(request.session_hash)

    # Components that are never shown: an upload must be checked by gr.File, a plain `str` would be any server path.
    files = gr.File(label="files", file_count="multiple", file_types=FILE_TYPES, visible=False)
    texts, summary = gr.JSON(label="texts", visible=False), gr.JSON(label="memory", visible=False)
    model_turn = {"concurrency_id": "model", "concurrency_limit": 1}
    gr.Button(visible=False).click(load_documents, [files, texts], summary, api_name="load_documents", **model_turn)
    gr.api(generate, api_name="generate", **model_turn)
    gr.api(clear_memory, api_name="clear_memory")
    gr.api(memory_summary, api_name="memory_summary")


@contextmanager
def _errors_for_clients() -> Iterator[None]:
    """A LongMemError becomes the error that Gradio passes on to clients; others stay in the server's log."""
    try:
        yield
    except LongMemError as error:
        raise gr.Error(str(error), print_exception=False) from error
