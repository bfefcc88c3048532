"""The lesson as data: nine steps, what can be done in each, and the charts that they explain.

Words hold {fields} that `Lesson` fills with the sizes of the model at hand. The names of actions begin with what they
do: `generate` writes a text in the Generate tab, `chart` shows a chart of the inspector, `view` another part of the
page, `lesson` a step.
"""

from dataclasses import dataclass, replace

from app.reading import OPENING_PROMPT

AGAIN = "again"  # the action of step 8, which changes what the step shows
LIGHT_PROMPT = "The Gannory light shows"
NO_SIDENET = (
    "This step is about the SideNet and its gates, which LongMem trains. The model here is training-free: its own "
    "layers look into memory, and window and memory share one softmax. Open the studio with a LongMem model to take "
    "this step."
)


@dataclass(frozen=True)
class Action:
    """Something that a button does; `prompt` is what the model shall go on from."""

    label: str
    prompt: str = ""


@dataclass(frozen=True)
class Step:
    """One step: a few sentences, what to do, and a question with its answer.

    needs_sidenet: it is about a part that a model in training-free mode does not have.
    """

    title: str
    words: tuple[str, ...]
    task: str
    actions: tuple[str, ...]
    question: str
    answer: str
    needs_sidenet: bool = False


def without_sidenet(step: Step) -> Step:
    """What stands in a step's place where the model has no SideNet."""
    return replace(step, words=(NO_SIDENET,), task="", actions=("view-drawing",), question="", answer="")


# Each chart of the inspector: its name there, what it shows, and the step that explains it.
CHARTS = {
    "layers": ("Map", "Rows are memory layers, columns places in memory; strong colour is where they looked.", 3),
    "timeline": ("Timeline", "Each point is a chunk: across, the token it was retrieved for; up, its place.", 4),
    "ranking": ("Ranking", "Each point is a chunk that was found: across, its score in the search; up, its weight.", 4),
    "scores": ("Scores", "How many chunks of all in memory have which score: amber are those that were retrieved.", 4),
    "grid": ("Grid", "Every head of every memory layer: how much of what it gives comes from memory.", 5),
    "gates": ("Gates", "For each layer and head, how much of its output comes from memory.", 5),
    "heads": ("Heads", "For one token and layer: the weight that each head (row) gave to each chunk (column).", 6),
    "running": ("Perplexity", "How unsure the model is over the text so far, with memory and with an empty one.", 9),
    "effects": ("Effect", "For each token, what memory did to its probability: this was measured, not looked at.", 9),
}

STEPS = (
    Step(
        "The window",
        (
            "A language model writes one token after the other; a token is a word or a piece of one. To choose the "
            "next one it looks back over its window: the last {window} tokens.",
            "What is older is out of sight. When the window is full, its oldest {half} tokens leave at once.",
        ),
        "Let the model go on from «{prompt}». The answer stands in the story, not in the prompt: compare the first "
        "words of the two texts. The colour behind a word says how much memory raised (amber) or lowered (violet) its "
        "probability.",
        ("generate",),
        "The window is full, and one more token comes. How many tokens are in sight then?",
        "{window_after}. The oldest {half} leave, {stays} stay, and the new one is added.",
    ),
    Step(
        "Keys and values",
        (
            "In attention every token has a key, by which it is found, and a value, which it hands on: "
            "{head_dim} numbers each, for each of {kv_heads} heads.",
            "Memory keeps both, of {memory_layers}, as they are before attention adds positions: a token shall be "
            "found by what it is, not by where it stands.",
        ),
        "Choose two tokens, one after the other, and compare their keys. In the sidebar you see what all of memory "
        "takes.",
        ("view-memory",),
        "Why does memory keep keys and values, and not just the text?",
        "Because they are what attention works with. A head can use them at once; a text would have to be read again "
        "for every question. The text is kept too, but only to show you where a chunk stands.",
    ),
    Step(
        "Chunks",
        (
            "Memory is kept in chunks of {chunk_size} neighbouring tokens, cut at multiples of {chunk_size} from the "
            "beginning of the document. A chunk is found and fetched as a whole.",
            "There is room for {memory_size} tokens. When it is full, the oldest chunks leave.",
        ),
        "Open the map: rows are memory layers, columns are places in memory. Click the strongest cell: its chunk opens "
        "under the chart, in its place in the story.",
        ("chart-layers",),
        "In this story token {example_token} is «{example_text}». In which chunk is it, if chunks are counted from 0?",
        "{example_token} : {chunk_size} = {example_chunk}, remainder {example_rest}. So it is the token number "
        "{example_place} of chunk {example_chunk}.",
    ),
    Step(
        "Retrieval",
        (
            "For every token each head asks memory with a query, again {head_dim} numbers. A chunk scores by the inner "
            "product of that query with {chunk_key}: multiply number by number, and add up.",
            "The best {retrieved_chunks} chunks, {retrieved_tokens} tokens, are fetched; every token and every head "
            "fetches its own.",
        ),
        "Choose a token and see what its query finds. Then open the timeline: each point is a chunk that was retrieved "
        "for a written token; its area is the weight.",
        ("chart-timeline", "chart-ranking", "chart-scores"),
        "A chunk scores 300. Is that a lot?",
        "That cannot be said: a score is no probability. It only puts the chunks in order for one query of one head. "
        "What counts afterwards is attention: a softmax over the fetched tokens, whose shares add up to 1.",
    ),
    Step(
        "The gate",
        (
            "Each head of a memory layer now has two answers, one from its window and one from memory. A gate between "
            "0 and 1 says how much memory counts: 0 is the window alone, 1 is memory alone.",
            "{gate_words}",
        ),
        "Choose a token and compare the heads. Then open the gates of the text that you generated.",
        ("chart-gates", "chart-grid"),
        "A gate is open to 90 %. Did memory decide the word?",
        "Not necessarily. The gate says how much of a head's output comes from memory, not whether that was of any "
        "use, and there are other heads and layers. What memory did to a word is measured by its effect: step 9.",
        needs_sidenet=True,
    ),
    Step(
        "Fusion",
        (
            "A is attention over the window, with positions. M is attention over the fetched tokens, without. They are "
            "two softmaxes, joined number by number: (1 − gate) · A + gate · M.",
            "The weight of a chunk is its share of the attention inside memory, times the gate.",
        ),
        "Follow the first number from A and M to the result. Then open the heads: rows are heads, columns chunks, and "
        "the colour is the weight.",
        ("chart-heads",),
        "What do the weights of all chunks that one head retrieved add up to?",
        "To its gate. Inside memory the shares add up to 1, and each is multiplied by the gate. (The chart draws the "
        "heaviest chunks only.)",
        needs_sidenet=True,
    ),
    Step(
        "The SideNet",
        (
            "The backbone, {frozen} parameters in {layers} layers, is frozen. Beside it runs the SideNet, {trained} "
            "trained parameters in {side_layers} layers: only it looks into memory.",
            "To each of its layers is added what the backbone changed over the same {over}: the residual. So the "
            "SideNet has to learn only what memory makes different.",
        ),
        "Compare what each layer adds of its own with the residual, and what comes next with and without memory. Then "
        "find both in the drawing.",
        ("view-drawing",),
        "If no SideNet layer changed anything, what would come out?",
        "What the backbone has after its last layer. The residuals add up: every change of the backbone is in exactly "
        "one of them, and both began with the same embeddings. Only the last norm is the SideNet's own.",
        needs_sidenet=True,
    ),
    Step(
        "Nothing grows old",
        (
            "Keys were written by the frozen backbone. It never changes, so a key that was kept long ago is the one "
            "that it would write today, and a memory can be saved and loaded.",
            "If the model that writes the keys is trained (as in MemTRM, the Memorizing Transformer), those it kept "
            "grow stale: they no longer fit what it would write now.",
        ),
        "Let the backbone read the beginning of the story again, and compare what it writes with what is in memory.",
        (AGAIN,),
        "Did stale keys make MemTRM worse in the recorded training?",
        "{stale_answer}",
    ),
    Step(
        "Limits",
        (
            "This model is small. It can repeat what stands in memory if the question begins as the sentence does; it "
            "understands no question, and it knows nothing of the world.",
            "And a weight is not an effect: a chunk that was looked at most may change nothing, because another one "
            "says the same. Only taking it away shows what it did.",
        ),
        "Ask for something that stands in the story as well: «The Gannory light shows three white flashes and one "
        "red.» Then open the effect of memory on each token.",
        ("generate-light", "chart-effects", "chart-running"),
        "Why did the heaviest chunk change less than its weight promises, or more?",
        "{removal_answer}",
    ),
)

ACTIONS = {
    "generate": Action("Generate this now", OPENING_PROMPT),
    "generate-light": Action("Ask for the light", LIGHT_PROMPT),
    **{f"chart-{name}": Action(f"Show: {title}") for name, (title, _, _) in CHARTS.items()},
    AGAIN: Action("Read it again and compare"),
    "view-generate": Action("Go to Generate"),
    "view-memory": Action("Show memory"),
    "view-drawing": Action("Show the drawing"),
    **{f"lesson-{number}": Action(step.title) for number, step in enumerate(STEPS, start=1)},
}
