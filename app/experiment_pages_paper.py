"""The pages of what the paper measured too: perplexity, suffix identification, learning in context, efficiency.

Published numbers are those of Wang et al. 2023 as far as we know them; each page says how sure they are.
"""

from app import experiment_tables as tables
from app.experiment_charts import Chart, Quantity
from app.experiment_page import Knob, Page
from app.experiment_scales import ACCURACY, CHANGE, PERPLEXITY, chance, zero

RECALLED = "Reported by the paper as we recall it; not checked against its text."
SECONDARY = "The 40.5 % and the 28.3 % come from a secondary source; the other numbers are recalled, not checked."


PERPLEXITY_PAGE = Page(
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
            level=zero,
        ),
    ),
    unit="parts of the text",
    small="The text is cut into parts, each measured as a document of its own; every second window is scored.",
    knobs={
        "tokens": Knob("Tokens of each part", 4_096, 1_024, 16_384),
        "items": Knob("Parts, at most", 4, 1, 12),
    },
)

SUFFIX_PAGE = Page(
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
            level=chance,
        ),
    ),
    unit="chapter breaks",
    small="Breaks between chapters that are found by their headings: the text needs seven chapters or more.",
    knobs={
        "tokens": Knob("Tokens of prefix", 1_024, 512, 8_192),
        "items": Knob("Chapter breaks, at most", 8, 1, 60),
    },
)

ICL_PAGE = Page(
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
)

EFFICIENCY_PAGE = Page(
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
)
