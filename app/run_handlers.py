"""What makes and inspects runs: generating, the chosen token, charts and chunks. Plain values in and out."""

from collections.abc import Iterator
from dataclasses import replace

from app import charts, inspection, markup, theme
from app.charts import Figure
from app.generating import RunView, generate_pair
from app.settings import Place, Settings
from app.studio import StudioBase, alone, news, said

CHARTS = ("layers", "timeline", "heads", "gates", "effects")
NOTHING_YET = "Generate first: then this shows what was retrieved."


class RunHandlers(StudioBase):
    """The Generate tab and the inspector."""

    def place_preview(self, key: str, place: Place | None) -> str:
        """HTML of the text around the place where a document would be continued."""
        session = self.store.get(key)
        if session.is_busy:
            return markup.note("Memory is being read or written with just now: the place is shown when that has ended.")
        documents = session.bank.documents
        if place is None or place.document not in documents:
            return markup.note("Choose a document that is in memory; the model goes on from any place in it.")
        record = documents[place.document]
        at = place.character(record.text)
        before, after = record.text[max(0, at - 260) : at], record.text[at : at + 160]
        first = min((c.start for c in session.bank.chunks() if c.document == place.document), default=0)
        begins = first / len(record.text) if first >= at else None
        return markup.place_preview(record.name, before, after, theme.document_colour(place.document), begins)

    def generate(self, key: str, prompt: str, settings: dict, place: Place | None = None) -> Iterator[RunView]:
        """Go on from `prompt`, or from `place` in a document, with memory and, same seed, with an empty memory."""
        session = self.store.get(key)
        view, notice = RunView(None, None, status=""), news(session)
        try:
            with alone(session):
                model, silence = self.model_of(session), self.silent_layers(session)
                for view in generate_pair(model, session, prompt, Settings(**settings), place, silence):
                    yield replace(view, notice=notice)
        except Exception as error:
            yield replace(view, status="", notice=said(error), payload=None, busy=False)

    def prepare_run(self, key: str) -> None:
        """As `prepare_reading`, for generating."""
        self.store.get(key).stop_generating.clear()

    def stop_generating(self, key: str) -> None:
        """End the generation after the token that it is at."""
        self.store.get(key).stop_generating.set()

    def choose(self, key: str, step: object, layer: object) -> bool:
        """Remember the token and layer that the page chose; False, and no change, where the last run has no such."""
        session = self.store.get(key)
        run = session.run
        known = run is not None and isinstance(step, int) and isinstance(layer, int | None)
        if not known or step not in set(run.tokens.step) or layer not in {None, *run.gates.layer}:
            return False
        session.chosen = (int(step), None if layer is None else int(layer))
        return True

    def chart(self, key: str, name: str, *, whole_run: bool = False) -> Figure:
        """One of CHARTS for the last run; `layers`, `heads` and `gates` follow the chosen token and layer.

        With `whole_run` the map of layers and the gates show all tokens instead.
        """
        session = self.store.get(key)
        run, (step, layer) = session.run, session.chosen
        if run is None or step is None:
            return charts.empty_figure(NOTHING_YET)
        if name == "timeline":
            return charts.steps_by_position(run.trace, run.chunks)
        if name == "effects":
            return charts.effect_strip(run.tokens)
        if name == "heads":
            last = run.gates.layer.max() if len(run.gates) else -1
            return charts.heads_by_chunk(run.trace, run.chunks, step=step, layer=last if layer is None else layer)
        shown = None if whole_run else step
        if name == "gates":
            return charts.gate_bars(run.gates, step=shown)
        return charts.layers_by_position(run.trace, run.chunks, step=shown)

    def chunk(self, key: str, chunk: object) -> str:
        """HTML of a chunk in its place in the document, and the tokens of the last run that retrieved it."""
        run = self.store.get(key).run
        known = run is not None and isinstance(chunk, int)
        return markup.chunk_card(inspection.chunk_in_place(run, chunk) if known else None)
