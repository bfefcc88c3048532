"""What each page of the experiments says and shows: question, published numbers, charts, and the small run's settings.

Published numbers are those of Wang et al. 2023 as far as we know them; each page says how sure they are.
"""

from app import experiment_tables as tables
from app.experiment_charts import Chart, Quantity
from app.experiment_page import Knob, Page

RECALLED = "Reported by the paper as we recall it; not checked against its text."
SECONDARY = "The 40.5 % and the 28.3 % come from a secondary source; the other numbers are recalled, not checked."
NOT_THERE = "The paper has no such measurement that we know of: there is no number to compare with."

PERPLEXITY = Quantity("perplexity", digits=2)
CHANGE = Quantity("change of perplexity", "%", 100, 1, signed=True)
ACCURACY = Quantity("accuracy", "%", 100)
RECALL = Quantity("recall", "%", 100)
FALL = Quantity("fall of log-probability", "nats", digits=3, signed=True)


def _zero(_result: dict) -> tuple[float, str]:
    return 0.0, ""


def _chance(result: dict) -> tuple[float, str] | None:
    return (result["chance"], "chance") if result.get("chance") is not None else None


def _last_step(result: dict) -> float:
    return result["settings"]["steps"]


PAGES: dict[str, Page] = {
    "perplexity": Page(
        title="Perplexity",
        heading="Does memory help to predict long texts?",
        question="Perplexity says how surprised a model is by each next token: 40 means as unsure as between 40 "
        "equally likely tokens, so lower is better. If memory works, it should help the more, the further a document "
        "has gone.",
        method="Each document is read alone from its beginning; memory starts empty and fills as reading goes on. "
        "All systems predict the same tokens. Between documents of very different difficulty the plain numbers spread "
        "widely; the change against the backbone compares each document with itself.",
        published=(
            ("1k window", "5–10k", "10–100k", "100–500k", "0.5–1M", "over 1M", "ArXiv"),
            ("GPT-2*, no memory", "22.78", "24.39", "24.12", "24.97", "18.07", "11.05"),
            ("MemTRM, 65k", "21.77", "23.56", "23.23", "24.16", "17.39", "10.81"),
            ("LongMem, 65k", "21.29", "23.01", "22.55", "23.35", "16.71", "10.05"),
        ),
        caveat=f"{RECALLED} By length of the books of PG-22, in tokens: 5.6 to 7.5 % lower than the backbone.",
        command="python -m longmem evaluate perplexity --documents books-test.jsonl.xz --json "
        "assets/results/perplexity-books-test.json",
        charts=(
            Chart(
                "length",
                "Perplexity by length",
                "lower is better; beginnings of documents, and all",
                tables.perplexity_by_length,
                PERPLEXITY,
                "how much of each document",
                "dots",
            ),
            Chart(
                "position",
                "Perplexity by place in the document",
                "lower is better; intervals over documents",
                tables.perplexity_by_position,
                PERPLEXITY,
                "tokens from the beginning",
            ),
            Chart(
                "change",
                "Change against the backbone",
                "below 0 is better; each document with itself",
                tables.perplexity_change,
                CHANGE,
                "tokens from the beginning",
                level=_zero,
            ),
        ),
        unit="parts of the text",
        small="The text is cut into parts, each measured as a document of its own; every second window is scored.",
        knobs={
            "tokens": Knob("Tokens of each part", 4_096, 1_024, 16_384),
            "items": Knob("Parts, at most", 4, 1, 12),
        },
    ),
    "suffix": Page(
        title="Suffix",
        heading="Which passage comes next?",
        question="The model reads many thousand tokens up to the end of a chapter and then six passages: one begins "
        "the next chapter, five begin other chapters of the same book. It picks the most probable one. Guessing is "
        "right one time in six.",
        method="Headings are cut off, all six have the same length, and a tie counts as wrong. What does not fit in "
        "the window is read into memory.",
        published=(
            ("ChapterBreak AO3, accuracy in %", "4k prefix", "6k", "8k"),
            ("LongMem", "37.7", "39.4", "40.5"),
            ("MemTRM", "28.3", "28.7", "28.7"),
            ("GPT-2*, no memory", "", "", "18.4"),
            ("chance", "16.7", "16.7", "16.7"),
        ),
        caveat=SECONDARY,
        command="python -m longmem evaluate suffix --documents books-test.jsonl.xz --manifest manifest.jsonl --json "
        "assets/results/suffix.json",
        charts=(
            Chart(
                "accuracy",
                "Right passage by length of the prefix",
                "six passages, one right; intervals over chapter breaks",
                tables.suffix_by_prefix,
                ACCURACY,
                "tokens of prefix",
                level=_chance,
            ),
        ),
        unit="chapter breaks",
        small="Breaks between chapters that are found by their headings: the text needs seven chapters or more.",
        knobs={
            "tokens": Knob("Tokens of prefix", 1_024, 512, 8_192),
            "items": Knob("Chapter breaks, at most", 8, 1, 60),
        },
    ),
    "icl": Page(
        title="In context",
        heading="Can it learn a task from examples in memory?",
        question="Labelled examples («Review: … Sentiment: positive.») stand in the window and, thousands of them, in "
        "memory. Then a new text is given and the model is to write its label. Nothing is trained.",
        method="Each label's probability is compared with what it has after a text without content, so that a "
        "favourite word does not win every time. The interval is over texts.",
        published=(
            ("20 in the window, accuracy in %", "SST-2", "MR", "Subj", "SST-5", "MPQA", "mean"),
            ("GPT-2*, no memory", "68.2", "63.4", "57.6", "33.6", "70.8", "58.7"),
            ("MemTRM", "65.1", "65.1", "58.2", "31.9", "72.7", "58.6"),
            ("LongMem, empty memory", "70.0", "70.8", "52.9", "30.9", "72.5", "59.4"),
            ("LongMem, 2,000 in memory", "78.0", "78.6", "65.6", "36.5", "74.6", "66.7"),
        ),
        caveat=f"{RECALLED} Mean of six draws of examples; they differ by as much as 14 points on SST-2.",
        command="python -m longmem evaluate icl --train sst2/train.jsonl --test sst2/test.jsonl --in-window 20 "
        "--in-memory 0,200,2000 --json assets/results/icl.json",
        charts=(
            Chart(
                "setting",
                "Accuracy by number of demonstrations",
                "mean over the data sets; intervals over texts",
                tables.icl_by_setting,
                ACCURACY,
                "demonstrations: in window + in memory",
            ),
            Chart(
                "set",
                "Accuracy in each data set",
                "with the most demonstrations that were measured",
                tables.icl_by_set,
                ACCURACY,
                "data set",
                "dots",
            ),
        ),
        unit="settings",
        small="Without files: a made-up task in which each label owns some made-up words. With files: your own data, "
        "JSONL, CSV or TSV with columns text and label.",
        knobs={
            "memory": Knob("Demonstrations in memory", 100, 1, 2_000),
            "items": Knob("Texts to classify, at most", 24, 2, 250),
        },
        takes_text=False,
    ),
    "needle": Page(
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
    ),
    "staleness": Page(
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
                last=_last_step,
            ),
            Chart(
                "overlap",
                "What is still retrieved",
                "chunks that are the same with old and with fresh keys",
                tables.staleness_curve("overlap"),
                Quantity("same chunks", "%", 100),
                "steps of training",
                "steps",
                last=_last_step,
            ),
            Chart(
                "perplexity",
                "Perplexity with old and with fresh keys",
                "of texts that neither system is trained on",
                tables.staleness_perplexity,
                PERPLEXITY,
                "steps of training",
                "steps",
                last=_last_step,
            ),
        ),
        unit="measurements",
        small="Both systems are trained while you watch, measured every four steps. To fit in about a minute on one "
        "core: windows of 128 tokens instead of the model's own, one lane instead of four, two texts to measure on.",
        knobs={"steps": Knob("Steps of training", 28, 4, 200)},
    ),
    "efficiency": Page(
        title="Efficiency",
        heading="What does memory cost?",
        question="Full attention looks at every earlier token: the longer the context, the slower and the larger. "
        "LongMem keeps a short window and looks up a fixed number of chunks. Is it faster, and how much does it keep?",
        method="Every system reads the same tokens and then writes, in turn, several rounds; medians are shown, so "
        "there is no interval. Other numbers of memory layers are measured with fresh SideNets: speed does not depend "
        "on what was learned.",
        published=(
            ("8k tokens of context, one GPU", "tokens/s", "GB"),
            ("full attention", "8,417", "54.2"),
            ("LongMem, 1k window and 7k memory", "21,343", "13.4"),
        ),
        caveat=f"{RECALLED} 2.5 times the speed with a quarter of the memory.",
        command="python -m longmem evaluate efficiency --documents harbour-log.txt --json "
        "assets/results/efficiency-cpu.json",
        charts=(
            Chart(
                "read",
                "Speed of reading",
                "higher is better; medians over rounds",
                tables.efficiency_by_length("read_tokens_per_second"),
                Quantity("reading", "tokens/s", digits=0),
                "tokens of context",
            ),
            Chart(
                "write",
                "Speed of writing",
                "higher is better; token by token after the context",
                tables.efficiency_by_length("write_tokens_per_second"),
                Quantity("writing", "tokens/s"),
                "tokens of context",
            ),
            Chart(
                "bytes",
                "What is kept of the context",
                "lower is better; keys, values, and the search index",
                tables.efficiency_by_length("state_bytes"),
                Quantity("kept", "MiB", 2**-20),
                "tokens of context",
            ),
        ),
        unit="lengths",
        small="Two lengths, a quarter of the longest and the longest; one round. Other visitors slow it down.",
        knobs={
            "tokens": Knob("Longest context, in tokens", 4_096, 1_024, 16_384),
            "new": Knob("Tokens to write", 8, 1, 32),
        },
    ),
    "attribution": Page(
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
                level=_zero,
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
                _zero,
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
                _zero,
            ),
        ),
        unit="parts of the text",
        small="The text is cut into parts; each is read into a memory of its own, and its next window is measured.",
        knobs={
            "tokens": Knob("Tokens read of each part", 2_048, 512, 16_384),
            "per_part": Knob("Tokens measured in each part", 4, 1, 32),
            "items": Knob("Parts, at most", 4, 1, 12),
        },
    ),
    "comparison": Page(
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
                _zero,
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
    ),
}
