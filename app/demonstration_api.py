"""What the endpoints for labelled examples do: as the Demonstrations tab, but with dictionaries and LongMemErrors."""

from collections.abc import Sequence

from app import demonstrating
from app.api_handlers import summary
from app.demonstration_accuracy import SIZES
from app.demonstration_files import Source
from app.handlers import Studio, alone
from app.turns import Work
from longmem.demonstrations import SENTIMENT_TEMPLATE


def load_demonstrations(
    studio: Studio,
    key: str,
    path: str,
    *,
    text_column: str = "text",
    label_column: str = "label",
    template: str = SENTIMENT_TEMPLATE.pattern,
    skip_wrong: bool = False,
) -> dict:
    """Read labelled examples into the session's memory, as one document.

    Args:
        path: a CSV, TSV or JSONL file that the server itself gave to an upload.
        text_column, label_column: names of its columns.
        template: how a demonstration is written, with {text} and {label}.
        skip_wrong: leave out rows that cannot be used; otherwise they are an error that lists them.

    Returns: `document` (its id), `name`, `demonstrations` (how many), `in_memory` (how many of them are), `labels`, and
    the `memory` as `memory_summary` gives it.

    Raises: LongMemError.
    """
    shown = Source(path, text_column, label_column, template, skip_wrong).load()
    with alone(studio.store.get(key)) as session, session.stops.working(Work.EXAMPLES) as stop:
        for _ in studio.read_all(session, [shown.document], stop):
            pass
        demonstrating.remember_set(session, shown)
        document = max(demonstrating.sets_in_memory(session))
        first, last = demonstrating.demonstrations_held(session.bank, document, shown)
        return {
            "document": document,
            "name": shown.document.name,
            "demonstrations": len(shown.demonstrations),
            "in_memory": last - first,
            "labels": list(shown.labels),
            "memory": summary(session.bank, key),
        }


def classify(
    studio: Studio, key: str, text: str, *, document: int | None = None, in_window: int = demonstrating.IN_WINDOW
) -> dict:
    """Classify a text by the demonstrations in the session's memory, with it and with an empty one.

    Args:
        text: what to classify.
        document: id of the demonstrations; by default those that were read last.
        in_window: how many of them stand in the window, 0 to 64, each label in turn.

    Returns: see `app.demonstrating.described`.

    Raises: LongMemError.
    """
    with alone(studio.store.get(key)) as session:
        return {**demonstrating.classified(studio, session, document, text, in_window)[0], **studio.labels}


def evaluate_demonstrations(
    studio: Studio,
    key: str,
    path: str,
    *,
    text_column: str = "text",
    label_column: str = "label",
    document: int | None = None,
    n_texts: int = demonstrating.TEXTS,
    in_window: int = demonstrating.IN_WINDOW,
    sizes: Sequence[int | None] = (*SIZES, None),
) -> dict:
    """Accuracy on a test file against the number of demonstrations in memory, each on a bank of its own.

    Args:
        path: a CSV, TSV or JSONL file that the server itself gave to an upload.
        text_column, label_column: names of its columns.
        document: id of the demonstrations; by default those that were read last.
        n_texts: at most so many texts, drawn with a fixed seed.
        in_window: how many demonstrations stand in the window, 0 to 64.
        sizes: numbers of demonstrations in memory; None is all there are, and larger ones than that are left out.

    Returns: see `app.demonstration_accuracy.result`.

    Raises: LongMemError.
    """
    result = None
    with alone(studio.store.get(key)) as session, session.stops.working(Work.EVALUATING) as stop:
        test = Source(path, text_column, label_column, "{text} {label}")
        for step in demonstrating.measured(studio, session, document, test, n_texts, in_window, sizes, stop):
            result = step.result or result
    return None if result is None else {**result, **studio.labels}
