"""The page: three regions, memory (sidebar), work (tabs) and inspector, and the named API endpoints."""

import threading
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from app import markup, theme
from app.api import add_api
from app.change_panel import build_change_panel, wire_change_panel
from app.demonstrations_panel import DemonstrationsTab, build_demonstrations_tab
from app.demonstrations_tab import wire_demonstrations_tab
from app.downloads import Downloads
from app.experiments import RESULTS, Experiments
from app.experiments_tab import build_experiments_tab
from app.export_panel import build_export_panel, wire_export_panel
from app.generate_tab import GenerateTab, build_generate_tab, wire_generate_tab
from app.handlers import Studio
from app.inspector_panel import InspectorPanel, build_inspector_panel, wire_inspector_panel
from app.learn_tab import LearnTab, build_learn_tab, wire_learn_tab
from app.memory_panel import MemoryWiring, build_memory_panel, wire_memory_panel
from app.methods import METHODS
from app.reading import SAMPLES, SampleShelf
from app.score_tab import ScoreTab, build_score_tab, wire_score_tab
from app.session import GIB, SessionStore
from app.studio import MAX_FILE_BYTES
from app.uploads import Uploads
from app.zero_gpu import ZeroGpu
from longmem.model import LongMemForCausalLM

ROOT = Path(__file__).parent.parent
ASSETS = ROOT / "assets"
# A cross on a note takes the note away.
DISMISS_SCRIPT = """
element.addEventListener('click', (event) => { if (event.target.closest('[data-dismiss]')) props.value = ''; });
"""


def build(
    model: LongMemForCausalLM,
    *,
    byte_budget: int = 4 * GIB,
    samples: Path = SAMPLES,
    results: Path = RESULTS,
    read_opening_sample: bool = True,
    max_file_bytes: int = MAX_FILE_BYTES,
    zero_gpu: ZeroGpu | None = None,
) -> gr.Blocks:
    """The studio over `model`: a page and an API. All sessions' banks together stay within `byte_budget` bytes.

    samples: folder of sample documents; results: folder of recorded results; max_file_bytes: as for `launch_options`;
    zero_gpu: where workers have the GPU.
    """
    shelf = SampleShelf(model, samples)
    studio = Studio(model, SessionStore(model.new_bank, byte_budget=byte_budget), shelf)
    studio.max_file_bytes, studio.zero_gpu = max_file_bytes, zero_gpu
    if read_opening_sample:  # while the page is being built and fetched
        threading.Thread(target=shelf.opening_bank, name="longmem-sample", daemon=True).start()
    with gr.Blocks(
        title=model.label or "LongMem studio", fill_width=True, analytics_enabled=False, delete_cache=(3600, 3600)
    ) as demo:
        with gr.Sidebar(width=336, elem_id="lm-memory"):
            memory = build_memory_panel(studio)
        if model.label:
            gr.HTML(markup.method_banner(model.label), elem_id="lm-method")
        notice = gr.HTML(elem_id="lm-notice", js_on_load=DISMISS_SCRIPT)
        with gr.Row(elem_id="lm-studio"):
            work = _lay_out_work(studio, results, notice)
            with gr.Column(scale=9, min_width=320, elem_id="lm-look"):
                inspector = build_inspector_panel(METHODS[model.label])
                change = build_change_panel()
                export = build_export_panel()
        cache = Path(export.download.GRADIO_CACHE).resolve()
        downloads, studio.uploads = Downloads(cache), Uploads(cache)
        add_api(studio, downloads)  # first: a handler of the page may have the name of an endpoint
        choices = [work.generate.document, work.score.document, change.document]
        reading = wire_memory_panel(demo, studio, memory, notice, choices)
        wire_change_panel(studio, change, reading)
        runs_ended = _wire_work(studio, work, notice, inspector, reading)
        loaded = wire_export_panel(demo, studio, export, work.generate, memory, reading, inspector, notice, downloads)
        wire_inspector_panel(demo, studio, inspector, notice, [*runs_ended, *loaded])
        wire_learn_tab(studio, work.learn, work.tabs, work.generate, inspector, memory, notice)

        def leave(request: gr.Request) -> None:
            studio.leave(request.session_hash)

        demo.unload(leave)
    return demo.queue(max_size=32, default_concurrency_limit=4)


@dataclass(frozen=True)
class WorkTabs:
    """The tabs in the middle of the page: their components, and the `gr.Tab` of those that do something when opened."""

    tabs: gr.Tabs
    generate: GenerateTab
    score: ScoreTab
    score_page: gr.Tab
    demonstrations: DemonstrationsTab
    demonstrations_page: gr.Tab
    learn: LearnTab


def _lay_out_work(studio: Studio, results: Path, notice: gr.HTML) -> WorkTabs:
    """Lay out the tabs; must run inside their row."""
    with (
        gr.Column(scale=11, min_width=320, elem_id="lm-work"),
        gr.Tabs(elem_id="lm-tabs", overflow_behavior="wrap") as tabs,
    ):
        with gr.Tab("Generate", id="generate"):
            generate = build_generate_tab()
        with gr.Tab("Score", id="score") as score_page:
            score = build_score_tab()
        with gr.Tab("Demonstrations", id="demonstrations") as demonstrations_page:
            demonstrations = build_demonstrations_tab()
        with gr.Tab("Experiments", id="experiments", elem_id="lm-experiments-tab") as experiments_tab:
            build_experiments_tab(experiments_tab, Experiments(studio, results), notice)
        with gr.Tab("Learn", id="learn") as learn_tab:
            learn = build_learn_tab(studio, learn_tab)
    return WorkTabs(tabs, generate, score, score_page, demonstrations, demonstrations_page, learn)


def _wire_work(
    studio: Studio, work: WorkTabs, notice: gr.HTML, inspector: InspectorPanel, reading: MemoryWiring
) -> list[gr.events.Dependency]:
    """Connect the tabs that make runs; returns the ends of these, after which the charts are to be drawn."""
    shown = (notice, inspector.details, reading)
    return [
        *wire_generate_tab(studio, work.generate, *shown),
        *wire_score_tab(studio, work.score_page, work.score, *shown),
        *wire_demonstrations_tab(studio, work.demonstrations_page, work.demonstrations, *shown),
    ]


def launch_options(max_file_bytes: int = MAX_FILE_BYTES) -> dict:
    """Arguments for `launch`: the look, and a server that gives away nothing that it need not.

    max_file_bytes: of one upload.
    """
    fonts = [
        gr.themes.LocalFont(name, weights=(400, 700)) for name in (theme.UI_FONT, theme.MONO_FONT)
    ]  # in Gradio's box: no network
    look = gr.themes.Base(font=[fonts[0], "sans-serif"], font_mono=[fonts[1], "monospace"])
    return {
        "theme": look.set(**theme.gradio_variables()),
        "css": "\n".join([theme.css_variables(), *(path.read_text("utf-8") for path in sorted(ASSETS.glob("*.css")))]),
        "max_file_size": max_file_bytes,
        "allowed_paths": [],
        "blocked_paths": [str(ROOT)],
        "strict_cors": True,
        "show_error": False,
        "state_session_capacity": 64,
        "enable_monitoring": False,
        "run_history": False,
        "ssr_mode": False,
        "footer_links": ["api"],
    }
