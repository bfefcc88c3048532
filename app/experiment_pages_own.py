"""The pages of what the paper does not measure: needle, staleness, attribution, and settings of the method."""

from app import experiment_tables as tables
from app.experiment_charts import Chart, Quantity
from app.experiment_page import Knob, Page
from app.experiment_scales import CHANGE, FALL, PERPLEXITY, RECALL, last_step, zero

NOT_THERE = "The paper has no such measurement that we know of: there is no number to compare with."


NEEDLE_PAGE = Page(
    title="Needle",
    heading="Does it find one fact in a long text?",
    question="A made-up fact («The secret number of Flirm Zieden is 4 7 1 1.») is planted in a long text. Later "
    "the model is given its beginning. It has recalled the fact if every token of the answer is its first choice.",
    method="Three kinds: forms of sentences that training used, forms held out from it, and known forms with "
    "eight other facts of the same form in the text, where only the name tells them apart. All names are new.",
    published=(),
    caveat=f"{NOT_THERE} It became customary later.",
    command="python -m longmem evaluate needle --documents books-valid.jsonl.xz --json assets/results/needle.json",
    charts=(
        Chart(
            "depth",
            "Needle in a haystack: length by depth",
            "facts recalled, in %; the beginning of the text on top",
            tables.needle_by_depth,
            RECALL,
            "tokens in memory",
            "heat",
            "depth in the text",
        ),
        Chart(
            "length",
            "Recall by length",
            "all tokens of the answer right; intervals over facts",
            tables.needle_by_length,
            RECALL,
            "tokens in memory",
        ),
        Chart(
            "heads",
            "Which heads found the right chunk",
            "questions for which the head retrieved it, in %",
            tables.needle_by_head,
            Quantity("found", "%", 100),
            "tokens in memory",
            "heat",
            "head",
        ),
    ),
    unit="haystacks",
    small="Two lengths, half of the longest and the longest, of all three kinds; five bands of depth.",
    knobs={
        "tokens": Knob("Longest haystack, in tokens", 4_096, 1_024, 32_768),
        "items": Knob("Facts of each kind and length", 10, 5, 48),
    },
)

STALENESS_PAGE = Page(
    title="Staleness",
    heading="What happens to memory while a model is trained?",
    question="In a Memorizing Transformer the model that writes memory is itself trained: keys that were stored "
    "earlier come from a model that is no more. The paper calls this staleness, and freezes the backbone so "
    "that it cannot happen.",
    method="Both systems start from the same backbone and learn from the same text. Before the first step some "
    "texts are read into memory; later what was stored is compared with what the model would store now.",
    published=(),
    caveat="The paper argues this in words; we know of no number in it to compare with.",
    command="python -m longmem evaluate staleness --documents books-valid.jsonl.xz --every 20 --json "
    "assets/results/staleness.json",
    charts=(
        Chart(
            "cosine",
            "Old keys against re-encoded ones",
            "cosine similarity; 1 = nothing has changed",
            tables.staleness_curve("cosine"),
            Quantity("cosine", digits=4),
            "steps of training",
            "steps",
            last=last_step,
        ),
        Chart(
            "overlap",
            "What is still retrieved",
            "chunks that are the same with old and with fresh keys",
            tables.staleness_curve("overlap"),
            Quantity("same chunks", "%", 100),
            "steps of training",
            "steps",
            last=last_step,
        ),
        Chart(
            "perplexity",
            "Perplexity with old and with fresh keys",
            "of texts that neither system is trained on",
            tables.staleness_perplexity,
            PERPLEXITY,
            "steps of training",
            "steps",
            last=last_step,
        ),
    ),
    unit="measurements",
    small="Both systems are trained while you watch, measured every four steps. To fit in about a minute on one "
    "core: windows of 128 tokens instead of the model's own, one lane instead of four, two texts to measure on.",
    knobs={"steps": Knob("Steps of training", 28, 4, 200)},
)

ATTRIBUTION_PAGE = Page(
    title="Attribution",
    heading="Do the charts tell the truth?",
    question="The studio shows which chunks had the largest weight. Did they matter? The chunk is taken out of "
    "memory, and we look how far the probability of the token falls: for the heaviest chunk, for a random one "
    "of those retrieved, and for a random one of the whole memory.",
    method="Only tokens on which memory had more than the median effect. Where memory hurt a token, taking the "
    "right chunk away should raise it, so the two kinds of tokens are shown apart as well.",
    published=(),
    caveat=NOT_THERE,
    command="python -m longmem evaluate attribution --documents books-valid.jsonl.xz --json "
    "assets/results/attribution.json",
    charts=(
        Chart(
            "removed",
            "What removing chunks costs",
            "mean fall of the token; intervals over documents",
            tables.attribution_by_removed,
            FALL,
            "chunks removed",
            series="which chunk",
            level=zero,
        ),
        Chart(
            "sign",
            "Tokens that memory helped and hurt",
            "one chunk removed; tokens that were hurt should rise",
            tables.attribution_by_sign,
            FALL,
            "tokens",
            "dots",
            "which chunk",
            zero,
        ),
        Chart(
            "tokens",
            "Every token",
            "on the diagonal one chunk explains the whole effect",
            tables.attribution_by_token,
            FALL,
            "effect of memory (nats)",
            "cloud",
            "which chunk",
            zero,
        ),
    ),
    unit="parts of the text",
    small="The text is cut into parts; each is read into a memory of its own, and its next window is measured.",
    knobs={
        "tokens": Knob("Tokens read of each part", 2_048, 512, 16_384),
        "per_part": Knob("Tokens measured in each part", 4, 1, 32),
        "items": Knob("Parts, at most", 4, 1, 12),
    },
)

COMPARISON_PAGE = Page(
    title="Settings",
    heading="Which settings are better?",
    question="The method leaves choices open: how the SideNet starts, how a chunk is scored, whether the gate is "
    "one number per head, how large chunks are. Each variant changes one of them.",
    method="Every variant is trained for a short time from the same seed on the same text and then measured by "
    "perplexity on held-out books. Short trainings favour what learns fast.",
    published=(
        ("setting", "in the paper"),
        ("tokens of a chunk", "4"),
        ("retrieved tokens", "64 (16 chunks)"),
        ("memory", "65,536 tokens"),
        ("score of a chunk", "mean of its keys"),
        ("gate", "one number per head"),
        ("memory layers", "one (18 of 24)"),
    ),
    caveat="The settings are those of the official code; it holds no comparison of them.",
    command="python -m longmem evaluate comparison --config cpu --data books-train.jsonl.xz --data "
    "technical.jsonl.xz --documents books-valid.jsonl.xz --json assets/results/comparison.json",
    charts=(
        Chart(
            "change",
            "Change of perplexity by memory",
            "against the backbone; to the left is better",
            tables.comparison_change,
            CHANGE,
            "variant",
            "rows",
            "what differs",
            zero,
        ),
        Chart(
            "recall",
            "Right answers at the end of training",
            "of tokens that answer a planted fact; training text",
            tables.comparison_recall,
            RECALL,
            "variant",
            "rows",
            "what differs",
        ),
    ),
    unit="variants",
    small="No training here: each recorded variant takes minutes to hours. The loaded model is measured on your "
    "text with other settings of retrieval, for which it was not trained.",
    knobs={
        "tokens": Knob("Tokens of each part", 2_048, 1_024, 16_384),
        "items": Knob("Parts, at most", 3, 1, 12),
    },
)
