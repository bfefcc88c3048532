"""What the inspector does: the chosen token, charts, what-ifs. Plain values in and out, no components."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pandas as pd

from app import charts, inspection, markup, perplexity_charts, what_if, what_if_markup
from app.charts import Figure
from app.methods import labelled
from app.session import Run, Session
from app.studio import StudioBase, alone, said
from app.switches import Switches
from app.turns import Work
from longmem.errors import LongMemError
from longmem.scoring import chunk_scores

CHARTS = ("layers", "timeline", "grid", "heads", "ranking", "scores", "gates", "effects", "running")
NOTHING_YET = "Generate or score a text first: then this shows what was retrieved."


@dataclass(frozen=True)
class WhatIfView:
    """The bar of what is off and the comparison, as HTML; None leaves the comparison as it is."""

    bar: str
    result: str | None
    notice: str = ""
    busy: bool = False


class InspectorHandlers(StudioBase):
    """The inspector."""

    def choose(self, key: str, step: object, layer: object, head: object = None) -> bool:
        """Remember the chosen token, layer and head; False, and no change, where the last run has no such."""
        session = self.store.get(key)
        run = session.run
        known = run is not None and isinstance(step, int) and isinstance(layer, int | None)
        if not known or step not in set(run.tokens.step) or layer not in {None, *run.gates.layer}:
            return False
        if not isinstance(head, int | None) or head not in {None, *run.gates["head"]}:
            return False
        session.chosen = (int(step), None if layer is None else int(layer))
        session.head = head
        return True

    def chosen_now(self, key: str) -> tuple:
        """Token, layer and head that the inspector is at."""
        session = self.store.get(key)
        return (*session.chosen, session.head)

    def chart(self, key: str, name: str, *, whole_run: bool = False) -> Figure:
        """One of CHARTS for the last run, following the chosen token, layer and head.

        With `whole_run` the map of layers, the grid and the gates show all tokens instead.
        """
        session = self.store.get(key)
        run, (step, layer) = session.run, session.chosen
        if run is None or step is None:
            return charts.empty_figure(NOTHING_YET)
        last = run.gates.layer.max() if len(run.gates) else -1
        layer = last if layer is None else layer
        shown = None if whole_run else step
        draw: dict[str, Callable[[], Figure]] = {
            "layers": lambda: charts.layers_by_position(run.trace, run.chunks, step=shown),
            "timeline": lambda: charts.steps_by_position(run.trace, run.chunks),
            "grid": lambda: charts.layer_head_grid(run.gates, step=shown),
            "heads": lambda: charts.heads_by_chunk(run.trace, run.chunks, step=step, layer=layer),
            "ranking": lambda: charts.chunk_ranking(run.trace, run.chunks, step=step, layer=layer, head=session.head),
            "scores": lambda: self._scores(session, run, step, layer),
            "gates": lambda: charts.gate_bars(run.gates, step=shown),
            "effects": lambda: charts.effect_strip(run.tokens),
            "running": lambda: perplexity_charts.running_perplexity(run.tokens),
        }
        return labelled(draw[name](), run.recipe.method)

    def _scores(self, session: Session, run: Run, step: int, layer: int) -> Figure:
        """Scores of what was retrieved and of all else: asked of the model again, so memory must be as it was."""
        if session.memory_version != run.recipe.version:
            return charts.empty_figure("Memory has changed since this run: make it again to see all scores.")
        model, head = self.model_of(session), session.head
        ids = what_if.run_ids(model, run)
        # A looked-up token is its own query; of the others, the token before asked.
        end = len(ids) - len(run.tokens) + step + (run.recipe.kind == "looked up")
        options = {"before": run.recipe.before, "silence": run.recipe.silence}
        found = chunk_scores(model, ids[:end], memory=session.bank, **options)
        if layer not in found:
            return charts.empty_figure("Nothing was searched here: memory is empty or switched off.")
        rows = run.trace[(run.trace.step == step) & (run.trace.layer == layer)]
        head = int(rows.groupby("head").weight.max().idxmax()) if head is None and len(rows) else head or 0
        chunks = [chunk.id for chunk in session.bank.chunks()]
        scores = pd.DataFrame({"chunk": chunks, "score": found[layer][head]})
        scores["retrieved"] = scores.chunk.isin(rows[rows["head"] == head].chunk)
        return charts.score_histogram(scores, step=step, layer=layer, head=head)

    # What if -----------------------------------------------------------------------------------------------------

    def toggle(self, key: str, kind: str, values: Iterable, chosen: dict | None = None) -> WhatIfView:
        """Switch chunks, documents, layers or heads off, or on again.

        chosen: step, layer and head that the page showed then; without it those that it told last.
        """
        session = self.store.get(key)
        if chosen:
            self.choose(key, chosen.get("step"), chosen.get("layer"), chosen.get("head"))
        try:
            what_if.check_unchanged(session, session.run)
            session.switches = session.switches.toggled(kind, values)
        except LongMemError as error:
            return WhatIfView(self.switch_bar(session), None, said(error))
        return WhatIfView(self.switch_bar(session), None)

    def all_on(self, key: str) -> WhatIfView:
        """Switch everything on again; a run without it ends."""
        session = self.store.get(key)
        session.switches = Switches()
        session.stops.stop(Work.AGAIN)
        return WhatIfView(self.switch_bar(session), "")

    def switch_bar(self, session: Session) -> str:
        """HTML of what is off."""
        return markup.switch_bar(session.switches.words(), session.chosen[0], session.switches.values())

    def run_again(self, key: str) -> Iterator[WhatIfView]:
        """The run from the chosen token on without what is off: other probabilities and, if it wrote, other text."""
        session = self.store.get(key)
        found = None
        try:
            with session.stops.working(Work.AGAIN) as stop, alone(session):
                run = what_if.check_unchanged(session, session.run)
                if not session.switches:
                    raise LongMemError("Nothing is switched off: use “off” beside a passage, a layer or a head first.")
                step = session.chosen[0] or 0
                again = (what_if.again, session, run, session.switches, step)
                for found in self.work(*again, effort=what_if.effort_of(run), stop=stop):
                    result = None if stop.is_set() else what_if_markup.comparison(found, running=True)
                    yield WhatIfView(self.switch_bar(session), result, busy=True)
            yield WhatIfView(self.switch_bar(session), self._ended(session, found, stopped=stop.is_set()))
        except Exception as error:
            result = "" if found is None else what_if_markup.comparison(found, running=True, ended="It failed here.")
            yield WhatIfView(self.switch_bar(session), result, notice=said(error))

    def _ended(self, session: Session, found: what_if.WhatIf, *, stopped: bool) -> str:
        """HTML of a run without something: stopped it keeps what it has, but not once everything is on again."""
        if stopped and not session.switches:
            return ""
        return what_if_markup.comparison(found, running=stopped, ended="Stopped here." if stopped else "")

    def measure(self, key: str) -> dict | None:
        """What each passage shown for the chosen token was worth: `run, step, effects`, in nats, in their order.

        `effects` maps a layer to a list, with None for passages of the run's own text. None where it cannot be
        measured: the page then shows no number.
        """
        session = self.store.get(key)
        run, (step, _) = session.run, session.chosen

        def worth(passage: dict) -> float | None:
            if passage["document"] < 0:  # the run's own text: it is in no bank, so nothing can be taken away
                return None
            with session.lock.aside() as has_turn:
                if not has_turn or session.chosen[0] != step:
                    raise LongMemError("Something else is being done just now.")
                what_if.check_unchanged(session, run)
                chunks = [part[1] for part in passage["parts"] if len(part) > 1]
                return round(what_if.worth(self.model_of(session), session, run, step, chunks), 3)

        try:
            if session.lock.locked():
                return None
            what_if.check_unchanged(session, run)
            shown = inspection.passages_of(run, step)
            effects = {str(layer): [worth(passage) for passage in rows] for layer, rows in shown.items()}
        except LongMemError:
            return None
        return {"run": run.number, "step": step, "effects": effects}
