"""The quantities and levels that charts of several experiments share."""

from app.experiment_charts import Quantity

PERPLEXITY = Quantity("perplexity", digits=2)
CHANGE = Quantity("change of perplexity", "%", 100, 1, signed=True)
ACCURACY = Quantity("accuracy", "%", 100)
RECALL = Quantity("recall", "%", 100)
FALL = Quantity("fall of log-probability", "nats", digits=3, signed=True)


def zero(_result: dict) -> tuple[float, str]:
    """The level of no change."""
    return 0.0, ""


def chance(result: dict) -> tuple[float, str] | None:
    """The level of guessing, where the result names one."""
    return (result["chance"], "chance") if result.get("chance") is not None else None


def last_step(result: dict) -> float:
    """The step with which training ended."""
    return result["settings"]["steps"]
