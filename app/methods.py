"""How a model came by its memory, and what its numbers are called: LongMem, or memory in a model as it is.

A run knows its method by `label`, which is to stand beside everything that is shown or saved of it; LongMem needs none.
"""

from dataclasses import dataclass

from app.charts import Figure
from longmem.training_free import LABEL


@dataclass(frozen=True)
class Method:
    """A method. `share` is what says how much of a head's output comes from memory, `shares` the chart of it.

    meaning: what that number is, as a sentence.
    """

    label: str
    share: str
    shares: str
    meaning: str


LONGMEM = Method("", "gate", "Gates", "Gate is the share of a head's output that comes from memory.")
TRAINING_FREE = Method(
    LABEL,
    "memory's share",
    "Shares",
    "Memory's share is how much of a head's attention falls on memory: window and memory share one softmax. There is "
    "no gate here, and nothing was trained.",
)
METHODS = {method.label: method for method in (LONGMEM, TRAINING_FREE)}


def labelled(figure: Figure, label: str) -> Figure:
    """The figure with the label of its method inside, so that it is on every picture that is made of it."""
    if label:
        figure.add_annotation(
            text=label, xref="paper", yref="paper", x=1, y=1, xanchor="right", yanchor="top", showarrow=False,
            font_size=10, bgcolor="rgba(128,128,128,0.35)", borderpad=2,
        )  # fmt: skip
    return figure
