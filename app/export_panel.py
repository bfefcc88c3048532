"""Saving a run, loading one with its memory, and the link to prompt and settings: components and their wiring."""

import json
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from app import markup
from app.bundle import SUFFIX, LoadView, load_bundle
from app.downloads import Downloads
from app.export_handlers import BUNDLE, MEMORY, REPORT, document_names, offer
from app.generate_tab import FROM_DOCUMENT, GenerateTab
from app.handlers import Studio
from app.inspector_panel import InspectorPanel
from app.memory_panel import MemoryPanel, MemoryWiring
from app.share_link import DOCUMENT, MAX_LINK, PROMPT, SETTINGS, SHARE, NamedPlace, from_query

TITLES = {
    REPORT: "Report (HTML)",
    "csv": "Trace (CSV)",
    "csv-zip": "All tables (CSV)",
    "parquet": "Parquet",
    "json": "JSON",
    BUNDLE: "Run and memory",
}
# The button that holds the file is pressed for the visitor as soon as it knows the file.
DOWNLOAD_SCRIPT = """
() => {
  let tries = 50;
  const press = () => {
    const button = document.querySelector('#lm-download');
    const link = button?.closest('a') ?? button?.querySelector('a') ?? button;
    if (link) link.click();
    else if (tries--) setTimeout(press, 100);
  };
  setTimeout(press, 100);
}
"""
# Makes the link out of what stands on the page and copies it; where the browser does not allow that, it is shown.
COPY_SCRIPT = """
async (keys, origin, name, share, prompt, ...settings) => {
  const query = new URLSearchParams();
  if (origin === keys.from_document && name) { query.set(keys.document, name); query.set(keys.share, share); }
  else query.set(keys.prompt, prompt);
  keys.settings.forEach((key, i) => query.set(key, settings[i] ?? ''));
  const url = `${location.origin}${location.pathname}?${query}`;
  const said = (kind, words) => `<div class="lm-note lm-${kind}" role="status"><span>${words}</span></div>`;
  const field = (value) => ({ __type__: 'update', value, visible: Boolean(value) });
  if (url.length > keys.most)
    return [field(''), said('failed', 'This prompt is too long for a link: save run and memory instead.')];
  try {
    await navigator.clipboard.writeText(url);
    return [field(''), said('done', 'Link copied: it restores prompt and settings, not the memory.')];
  } catch {
    return [field(url), said('info', 'Copy the link here: it restores prompt and settings, not the memory.')];
  }
}
"""
LINK_KEYS = {
    "from_document": FROM_DOCUMENT,
    "document": DOCUMENT,
    "share": SHARE,
    "prompt": PROMPT,
    "settings": list(SETTINGS),
    "most": MAX_LINK,
}


@dataclass(frozen=True)
class ExportPanel:
    """Components of the panel; `buttons` by kind of file."""

    buttons: dict[str, gr.Button]
    with_states: gr.Checkbox
    download: gr.DownloadButton
    load: gr.UploadButton
    status: gr.HTML


def build_export_panel() -> ExportPanel:
    """Lay out the panel; must run inside the inspector's column."""
    with gr.Accordion("Save or load this run", open=False, elem_id="lm-export"):
        with gr.Row(elem_classes="lm-export-files"):
            buttons = {
                kind: gr.Button(title, size="sm", min_width=120, elem_id=f"lm-save-{kind}")
                for kind, title in TITLES.items()
            }
        with_states = gr.Checkbox(
            False,
            label="Run and memory with keys and values: large, but nothing is read again",
            elem_id="lm-with-states",
        )
        download = gr.DownloadButton("Download again", size="sm", visible=False, elem_id="lm-download")
        status = gr.HTML(elem_id="lm-export-status")
        load = gr.UploadButton(f"Load run and memory ({SUFFIX})", file_types=[SUFFIX], size="sm", elem_id="lm-load-run")
    return ExportPanel(buttons, with_states, download, load, status)


def wire_export_panel(
    demo: gr.Blocks,
    studio: Studio,
    panel: ExportPanel,
    tab: GenerateTab,
    memory: MemoryPanel,
    reading: MemoryWiring,
    inspector: InspectorPanel,
    notice: gr.HTML,
    downloads: Downloads,
) -> list[gr.events.Dependency]:
    """Connect the panel and the memory panel's saving; returns the ends of loadings, to draw the charts after."""
    _wire_files(studio, downloads, panel, memory, notice)
    _wire_link(demo, studio, tab)

    def leave(request: gr.Request) -> None:
        downloads.free(request.session_hash)

    demo.unload(leave)
    return [_wire_loading(studio, button, tab, reading, inspector) for button in (panel.load, memory.load)]


def _wire_files(studio: Studio, downloads: Downloads, panel: ExportPanel, memory: MemoryPanel, notice: gr.HTML) -> None:
    private = {"api_visibility": "private", "show_progress": "hidden"}
    outputs = [panel.download, panel.status, notice]

    def preparing() -> str:
        return markup.note("Making the file…")

    def save(kind: str, with_states: bool, key: str) -> tuple:
        made = offer(studio, downloads, key, kind, with_states=with_states)
        path = None if made.path is None else str(made.path)
        return gr.update(value=path, visible=path is not None), made.status, made.notice

    for kind, button in {**panel.buttons, MEMORY: memory.save}.items():
        states = memory.with_states if kind == MEMORY else panel.with_states

        def save_kind(with_states: bool, request: gr.Request, kind: str = kind) -> tuple:
            return save(kind, with_states, request.session_hash)

        begun = button.click(preparing, None, panel.status, queue=False, **private)
        made = begun.then(save_kind, states, outputs, concurrency_limit=2, **private)
        made.then(None, None, None, js=DOWNLOAD_SCRIPT, api_visibility="private")


def _wire_loading(
    studio: Studio, button: gr.UploadButton, tab: GenerateTab, memory: MemoryWiring, inspector: InspectorPanel
) -> gr.events.Dependency:
    outputs = [*memory.outputs, tab.with_memory, tab.plain, inspector.details, tab.prompt, *tab.settings]

    def shown(view: LoadView) -> tuple:
        settings = [getattr(view.settings, name, None) for name in SETTINGS.values()]
        loaded = (view.with_memory, view.plain, view.payload, view.prompt, *settings)
        return *memory.shown(view.memory, fill=True), *(gr.skip() if x is None else x for x in loaded)

    def load(path: str, request: gr.Request):
        studio.uploads.claim(request.session_hash, [path])
        for view in load_bundle(studio, request.session_hash, Path(path)):
            yield shown(view)

    return button.upload(memory.prepare, **memory.ready).then(load, button, outputs, **memory.queued)


def _wire_link(demo: gr.Blocks, studio: Studio, tab: GenerateTab) -> None:
    """The button beside Generate, and what a link that was opened asks for."""
    private = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    with tab.generate.parent:
        copy = gr.Button("Copy link", elem_id="lm-copy-link", scale=1, min_width=90)
        link = gr.Textbox(label="Link", visible=False, interactive=False, elem_id="lm-link", buttons=["copy"])
        status = gr.HTML(elem_id="lm-link-status")
        name = gr.Textbox(visible=False)  # of the chosen document: the page knows its id only
        wanted = gr.State(None)  # (name, share) of a place that is not in memory yet

    def restore(request: gr.Request) -> tuple:
        shared = from_query(dict(request.query_params or {}))
        if shared.is_empty:
            return (gr.skip(),) * (len(tab.settings) + 3)
        settings = [shared.settings.get(setting, gr.skip()) for setting in SETTINGS.values()]
        place = shared.place and (shared.place.document, shared.place.share)
        prompt = gr.skip() if shared.prompt is None else shared.prompt
        return prompt, *settings, place, link_note(shared.problems, shared.place)

    def follow(document: int | None, place: tuple | None, request: gr.Request) -> tuple:
        """The name of the chosen document; and where it is the one that a link asks for, the place in it."""
        names = document_names(studio, request.session_hash) if document is not None else {}
        same = [i for i, known in names.items() if place and known == place[0]]
        if not same:
            return names.get(document, ""), *(gr.skip(),) * 5
        done = markup.note(f"From the link: {place[0]} at {100 * place[1]:g} %.", "done")
        return names[same[-1]], FROM_DOCUMENT, same[-1], 100 * place[1], None, done

    followed = [name, tab.origin, tab.document, tab.share, wanted, status]
    opened = demo.load(restore, None, [tab.prompt, *tab.settings, wanted, status], **private)
    opened.then(follow, [tab.document, wanted], followed, **private)
    tab.document.change(follow, [tab.document, wanted], followed, **private)
    inputs = [tab.origin, name, tab.share, tab.prompt, *tab.settings]
    script = f"(...values) => ({COPY_SCRIPT})({json.dumps(LINK_KEYS)}, ...values)"
    copy.click(None, inputs, [link, status], js=script, api_visibility="private")


def link_note(problems: tuple[str, ...], place: NamedPlace | None) -> str:
    """HTML of what came of an opened link."""
    if problems:
        return markup.note(" ".join([*problems, "What is not taken from the link is as it was."]), "failed")
    if place is not None:
        words = (
            f"The link goes on from {place.document} at {100 * place.share:g} %: add it to memory to choose the place."
        )
        return markup.note(words)
    return markup.note("Prompt and settings are those of the link.", "done")
