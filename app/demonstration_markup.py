"""Pieces of HTML for the Demonstrations tab. Every text, label, column and file name is escaped here."""

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from app import theme
from app.inspection import percent
from longmem.demonstrations import Demonstration, Template, WrongRow

SHOWN_ROWS = 3  # demonstrations of a preview
SHOWN_WRONG_ROWS = 50
SHOWN_LABELS = 12
SHOWN_RETRIEVED = 8  # demonstrations of each layer
LONGEST = 160  # characters of a text in a list


def preview(
    demonstrations: Sequence[Demonstration],
    wrong: Sequence[WrongRow],
    template: Template,
    text: str,
    about: str,
    *,
    left_out: bool = False,
) -> str:
    """How the first demonstrations, and the text that is asked for, are written; counts; rows that cannot be used.

    about: how much memory they will take, in words. left_out: the visitor chose to leave the wrong rows out.
    """
    counts = Counter(demonstration.label for demonstration in demonstrations)
    shown = "".join(written(template, d) for d in demonstrations[:SHOWN_ROWS])
    rest = len(demonstrations) - SHOWN_ROWS
    more = f'<p class="lm-quiet">… and {rest:,} more, one after the other</p>' if rest > 0 else ""
    return (
        f'<div class="lm-demo-preview"><p><b>{len(demonstrations):,} demonstrations</b> · {about}</p>'
        f"{label_counts(counts)}"
        f'<p class="lm-quiet">This is read into memory:</p><pre class="lm-written">{shown}</pre>{more}'
        f'<p class="lm-quiet">And this is asked for: the model gives each label a probability in the gap.</p>'
        f'<pre class="lm-written">{visible(template.prompt(text))} <span class="lm-gap">label?</span></pre>'
        f"{wrong_rows(wrong, left_out)}</div>"
    )


def written(template: Template, demonstration: Demonstration) -> str:
    """A demonstration as it stands in the document, its label marked; line breaks can be seen."""
    whole = template.render(demonstration)
    before = len(template.render(Demonstration(demonstration.text, "", 0))) - len(_after(template))
    label = whole[before : before + len(demonstration.label)]
    after = whole[before + len(demonstration.label) :]
    return f'{visible(whole[:before])}<b class="lm-label">{visible(label)}</b>{visible(after)}'


def _after(template: Template) -> str:
    return template.pattern.partition("{label}")[2]


def visible(text: str) -> str:
    """Escaped text whose line breaks can be seen, and break lines."""
    return escape(text).replace("\n", '<span class="lm-break">↵</span>\n')


def label_counts(counts: Counter) -> str:
    """The labels and how many demonstrations each has, the most frequent first."""
    named = [f'<span class="lm-label">{escape(short(label, 40))}</span> {n:,}' for label, n in counts.most_common()]
    more = f" · and {len(named) - SHOWN_LABELS:,} more" if len(named) > SHOWN_LABELS else ""
    noun = "label" if len(named) == 1 else "labels"
    return f'<p class="lm-labels">{len(named):,} {noun}: {" · ".join(named[:SHOWN_LABELS])}{more}</p>'


def wrong_rows(wrong: Sequence[WrongRow], left_out: bool) -> str:
    """Rows that cannot be used, by line number, and what becomes of them."""
    if not wrong:
        return ""
    rows = "".join(f"<tr><td>{row.line:,}</td><td>{escape(row.problem)}</td></tr>" for row in wrong[:SHOWN_WRONG_ROWS])
    more = len(wrong) - SHOWN_WRONG_ROWS
    rest = f'<p class="lm-quiet">… and {more:,} more</p>' if more > 0 else ""
    noun = "row cannot" if len(wrong) == 1 else "rows cannot"
    advice = "They are left out, as you chose above."
    if not left_out:
        advice = "Mend them in the file, or choose above to leave them out: nothing is left out by itself."
    return (
        f'<div class="lm-wrong-rows" role="alert"><b>{len(wrong):,} {noun} be used</b>'
        f"<p>{advice}</p><table><thead><tr><th>Line</th><th>What is wrong</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
        f"{rest}</div>"
    )


# A classification --------------------------------------------------------------------------------------------------


def classification(found: dict) -> str:
    """A classified text: the answers in words, three bars per label, and the demonstrations that were looked up."""
    return (
        f'<div class="lm-verdict">{verdict(found)}{label_bars(found)}{fine_print(found)}'
        f"{''.join(layer_table(found, layer) for layer in found['layers'])}</div>"
    )


def verdict(found: dict) -> str:
    """What was said, and whether the vote says the same, in sentences."""
    with_memory, without, votes = found["with_memory"], found["without_memory"], found["vote"]
    said = f'<span class="lm-label">{escape(with_memory["label"] or "a tie")}</span>'
    sentences = [f"<b>With memory: {said}</b> ({percent(max(with_memory['probabilities'].values()))} among the labels)"]
    if without["label"] == with_memory["label"]:
        sentences.append(f"The same with an empty memory ({percent(max(without['probabilities'].values()))}).")
    else:
        other = escape(without["label"] or "a tie")
        share = percent(max(without["probabilities"].values()))
        sentences.append(f'With an empty memory: <span class="lm-label">{other}</span> ({share}).')
    total = sum(votes.values())
    if total > 0:
        winner = max(votes, key=votes.get)
        agrees = "the same" if winner == with_memory["label"] else "another"
        sentences.append(
            f'The demonstrations that were looked up vote for <span class="lm-label">{escape(winner)}</span> with '
            f"{percent(votes[winner] / total)} of their weight: {agrees} label."
        )
    else:
        sentences.append("No demonstration was looked up: there is no vote.")
    first, *rest = sentences
    return f'<p class="lm-said">{first}</p>' + "".join(f"<p>{sentence}</p>" for sentence in rest)


def label_bars(found: dict) -> str:
    """A table with a row per label: its probability with memory and without, and its share of the vote."""
    total = sum(found["vote"].values()) or 1.0
    rows = "".join(
        f'<tr><th scope="row"><span class="lm-label">{escape(label)}</span></th>'
        f"{_answer_bar(found['with_memory'], label, 'with')}{_answer_bar(found['without_memory'], label, 'plain')}"
        f"{_bar(found['vote'][label] / total, 'vote')}</tr>"
        for label in found["labels"]
    )
    return (
        '<table class="lm-bars"><thead><tr><th>Label</th><th>With memory<br><small>(uncalibrated)</small></th>'
        "<th>Empty memory<br><small>(uncalibrated)</small></th>"
        f"<th>Vote of what<br>was looked up</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _answer_bar(answer: dict, label: str, kind: str) -> str:
    return _bar(answer["probabilities"][label], kind, answer["uncalibrated"][label])


def _bar(share: float, kind: str, uncalibrated: float | None = None) -> str:
    """A cell with a bar, its number, and the number before calibration."""
    plain = "" if uncalibrated is None else f'<small class="lm-quiet">({percent(uncalibrated)})</small>'
    heading = {"with": "with memory", "plain": "empty memory", "vote": "vote"}[kind]
    return (
        f'<td data-label="{heading}"><span class="lm-bar lm-bar-{kind}"><i style="width:{100 * share:.1f}%"></i></span>'
        f"<b>{percent(share)}</b>{plain}</td>"
    )


def fine_print(found: dict) -> str:
    """What the numbers mean, and what they do not show."""
    other = found["other_documents"]
    part = other / (other + sum(found["vote"].values())) if other else 0.0
    besides = f" Other documents in memory had {percent(part)} of all weight." if other else ""
    window = f"{found['in_window']} demonstrations" if found["in_window"] != 1 else "1 demonstration"
    return (
        f'<p class="lm-quiet">{window} stood in the window, the same with and without memory. Probabilities are among '
        "these labels and calibrated: what each label gets after a text without content is taken off. The vote adds up "
        "the weights (the part of a head's output that comes from each, averaged over heads, summed over layers) of "
        "the demonstrations looked up at the place where the label is written; it shows where the model looked there, "
        f"not what made it decide, and not what it looked up while it read the text.{besides}</p>"
    )


def read_text(panel: str) -> str:
    """The panel of the traced tokens, and what it shows."""
    return (
        '<p class="lm-quiet">The text as the model read it, after the demonstrations in the window, tinted by what '
        f"memory did to each token. Choose one to see what it looked up.</p>{panel}"
    )


def layer_table(found: dict, layer: int) -> str:
    """The demonstrations that one layer looked up for the label, the heaviest first."""
    rows = [row for row in found["retrieved"] if row["layer"] == layer]
    listed = "".join(
        f'<tr><td class="lm-weight">{100 * row["weight"]:.2f} %</td>'
        f'<td><span class="lm-label">{escape(row["label"])}</span></td>'
        f'<td>{escape(short(row["text"]))} <small class="lm-quiet">line {row["line"]:,}</small></td></tr>'
        for row in rows[:SHOWN_RETRIEVED]
    )
    rest = rows[SHOWN_RETRIEVED:]
    more = ""
    if rest:
        weight = 100 * sum(row["weight"] for row in rest)
        more = f'<p class="lm-quiet">… and {len(rest)} more with {weight:.2f} % together</p>'
    body = (
        f"<table><thead><tr><th>Weight</th><th>Label</th><th>Demonstration</th></tr></thead><tbody>{listed}</tbody>"
        f"</table>{more}"
        if rows
        else '<p class="lm-quiet">This layer looked up no demonstration.</p>'
    )
    open_ = " open" if layer == found["layers"][0] else ""
    total = 100 * sum(row["weight"] for row in rows)
    return (
        f'<details class="lm-looked-up"{open_} style="--hue:{theme.document_colour(found["document"])}"><summary>'
        f'<span class="lm-dot"></span> layer {layer} looked up {len(rows)} demonstrations '
        f'<span class="lm-quiet">{total:.1f} % of its heads\' output</span></summary>{body}</details>'
    )


# An evaluation -----------------------------------------------------------------------------------------------------


def accuracy_words(result: dict) -> str:
    """The largest memory that was measured, in a sentence, and every number in a table."""
    sizes = result["by_size"]
    last, first = sizes[-1], sizes[0]
    sentence = f"With {last['in_memory']:,} demonstrations in memory {_of(last)} texts get the right label"
    if last is not first:
        sentence += f"; with {first['in_memory']:,} it is {_of(first)}"
    rows = "".join(
        f'<tr><th scope="row">{size["in_memory"]:,}</th><td>{share(size["accuracy"])}</td>'
        f"<td>{share(size['low'])} to {share(size['high'])}</td><td>{share(size['macro'])}</td>"
        f"<td>{share(size['uncalibrated'])}</td><td>{size['n']:,}</td><td>{size['tokens']:,}</td></tr>"
        for size in sizes
    )
    head = "In memory|Accuracy|95 % interval|Macro accuracy|Uncalibrated|Texts|Tokens in memory".split("|")
    return (
        f'<p class="lm-said">{sentence}.</p>'
        '<div class="lm-wide"><table><thead><tr>'
        f"{''.join(f'<th>{name}</th>' for name in head)}</tr></thead><tbody>{rows}</tbody></table></div>"
        f'<p class="lm-quiet">By chance {share(result["chance"])} would be right; whoever always said the label that '
        f"these texts have most, {share(last['majority'])}. {result['in_window']} demonstrations stood in the window "
        "and were in none of these memories. Each memory was filled for this measurement, one after another, and let "
        "go: yours was not touched. Macro accuracy is the mean over labels; two labels with the same score count as "
        "wrong.</p>"
    )


def _of(size: dict) -> str:
    return f"{round(size['accuracy'] * size['n'])} of {size['n']} ({share(size['accuracy'])})"


def share(value: float) -> str:
    """A share of texts: one digit after the point, since it is a count and 100 % is true."""
    return f"{100 * value:.1f} %"


def confusion_table(result: dict) -> str:
    """The confusion matrix of the largest memory as a table, for whoever cannot see the chart."""
    size, labels = result["by_size"][-1], result["labels"]
    ties = any(row[-1] for row in size["confusion"])
    columns = [*labels, *(["tie"] if ties else [])]
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th>{"".join(f"<td>{n}</td>" for n in row[: len(columns)])}</tr>'
        for label, row in zip(labels, size["confusion"], strict=True)
    )
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    return (
        "<details><summary>Confusion matrix as a table</summary>"
        f'<div class="lm-wide"><table><thead><tr><th>is ↓ said →</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
        "</div></details>"
    )


def wrong_cases(result: dict) -> str:
    """Every wrong case of the largest memory as a button (`data-case`: its number)."""
    size = result["by_size"][-1]
    if not size["wrong"]:
        return '<p class="lm-note lm-done">No text got a wrong label.</p>'
    items = "".join(
        f'<li><button type="button" data-case="{number}"><span>{escape(short(case["text"]))}</span>'
        f'<span class="lm-quiet">line {case["line"]:,} · is <b class="lm-label">{escape(case["label"])}</b> · said '
        f'<b class="lm-label">{escape(case["said"] or "a tie")}</b></span></button></li>'
        for number, case in enumerate(size["wrong"])
    )
    noun = "text" if len(size["wrong"]) == 1 else "texts"
    return (
        f"<h4>{len(size['wrong'])} {noun} with a wrong label, {size['in_memory']:,} in memory</h4>"
        '<p class="lm-quiet">Choose one: it is classified again, by your own memory, and opens in the inspector.</p>'
        f'<ol class="lm-cases">{items}</ol>'
    )


def case_line(case: dict, found: dict) -> str:
    """Above a wrong case that was classified again: what it was in the measurement."""
    said = found["with_memory"]["label"]
    now = "now it gets the right label" if said == case["label"] else "it gets a wrong label again"
    is_, was = (f'<b class="lm-label">{escape(label)}</b>' for label in (case["label"], case["said"] or "a tie"))
    return (
        f'<p class="lm-note lm-info"><span>Line {case["line"]:,} of the test: is {is_}, said {was}. By your own memory '
        f"{now}: it holds "
        "other documents and demonstrations than the one that was measured.</span></p>"
    )


def short(text: str, most: int = LONGEST) -> str:
    """Text on one line, cut where it is long; not escaped."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def names(values: Iterable[str]) -> str:
    """Names in a sentence, escaped."""
    return ", ".join(f"«{escape(value)}»" for value in values)
