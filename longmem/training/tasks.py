"""Made-up classification tasks as streams of labelled demonstrations: from them a model learns in-context learning.

Sentences come from the training books; what divides them (which book, speech or narration, past or present, ...) and
the words that serve as labels change from stream to stream, so that only the demonstrations tell the answer.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
from transformers import PreTrainedTokenizerFast

from longmem.training.data import TokenCorpus
from longmem.training.facts import COMMON_WORDS, make_word

TEMPLATES = (
    "Review: {text} Sentiment: {label}. ",
    "Input: {text} Type: {label}. ",
    "{text} => {label}\n",
    "Text: {text}\nClass: {label}\n\n",
    "Words: {text} Kind: {label}. ",
    "Q: {text} A: {label}. ",
)
LABEL_PAIRS = (
    ("positive", "negative"),
    ("good", "bad"),
    ("yes", "no"),
    ("true", "false"),
    ("red", "blue"),
    ("left", "right"),
    ("day", "night"),
    ("first", "second"),
)
SENTENCE = re.compile(r"[^.!?\n]+[.!?]+[\"')]*")
PASSAGE = 320  # tokens of a book that are cut into sentences at a time
TRIES = 60  # passages looked through for sentences of every class
LONGEST = 160  # characters of a sentence

_GOOD = (
    "good happy joy joyful beautiful love loved lovely kind smile smiled laugh laughed delight delighted pleasant "
    "bright sweet charming glad excellent gentle perfect wonderful noble hope fine pleasure best friend"
).split()
_BAD = (
    "bad sad dark fear feared afraid death dead cruel angry anger hate hated terrible horrible dreadful pain wept "
    "tears wretched miserable evil ugly cold grief poor sorrow worst enemy gloomy dull"
).split()
_NUMBER = r"\d|\b(?:two|three|four|five|six|seven|eight|nine|ten|twenty|hundred)\b"
_NEGATION = r"\b(?:not|no|never|nothing|none)\b"


def _either(first: str, second: str) -> Callable[[str], int | None]:
    """0 where only the first pattern occurs, 1 where only the second does."""
    patterns = [re.compile(pattern, re.IGNORECASE) for pattern in (first, second)]

    def classify(sentence: str) -> int | None:
        found = [bool(pattern.search(sentence)) for pattern in patterns]
        return None if found[0] == found[1] else found.index(True)

    return classify


def _length(sentence: str) -> int | None:
    return 0 if len(sentence) < 50 else 1 if len(sentence) > 100 else None


CLASSIFIERS: dict[str, Callable[[str], int | None]] = {
    "speech": _either('"', r"^[^\"]*$"),
    "question": _either(r"\?", r"\.$"),
    "number": _either(_NUMBER, rf"^(?!.*(?:{_NUMBER}))"),
    "length": _length,
    "person": _either(r"\b(?:I|me|my|we)\b", r"\b(?:he|she|his|her|they|their)\b"),
    "gender": _either(r"\b(?:he|him|his)\b", r"\b(?:she|her|hers)\b"),
    "tense": _either(r"\b(?:was|were|had|did)\b", r"\b(?:is|are|has|do|does)\b"),
    "negation": _either(_NEGATION, rf"^(?!.*{_NEGATION})"),
    "mood": _either(rf"\b(?:{'|'.join(_GOOD)})\b", rf"\b(?:{'|'.join(_BAD)})\b"),
}
# Reading a mood is what the paper's classification sets ask for most, and it is the hardest: it comes more often.
KINDS = (*CLASSIFIERS, "mood", "mood", "mood", "book", "book", "corpus", "words", "words")


@dataclass
class Stream:
    """Demonstrations as tokens: ids, which are taught, and which are labels that can be known. All [T]."""

    ids: np.ndarray
    taught: np.ndarray
    asked: np.ndarray


class DemonstrationStreams:
    """Makes streams from the documents of some corpora, the same ones for a seed."""

    def __init__(self, corpora: list[TokenCorpus], shares: list[float], tokenizer: PreTrainedTokenizerFast) -> None:
        self.corpora, self.shares, self.tokenizer = corpora, shares, tokenizer

    def make(self, rng: Random, length: int) -> Stream:
        """One task shown again and again for at least `length` tokens."""
        texts, classes = self._task(rng)
        template, labels = rng.choice(TEMPLATES), _labels(rng, classes)
        before, after = template.split("{label}")
        ids: list[int] = []
        taught: list[bool] = []
        asked: list[bool] = []
        shown = [0] * classes
        while len(ids) < length:
            kind = rng.randrange(classes)
            prompt = self._ids(before.replace("{text}", texts(kind)).rstrip(" "))
            answer = self._ids(" " + labels[kind])
            end = self._ids(after)
            ids += prompt + answer + end
            # A label that has not been shown cannot be known.
            known = shown[kind] > 0
            taught += [True] * len(prompt) + [known] * len(answer) + [True] * len(end)
            asked += [False] * len(prompt) + [known] * len(answer) + [False] * len(end)
            shown[kind] += 1
        return Stream(np.array(ids[:length]), np.array(taught[:length]), np.array(asked[:length]))

    def _ids(self, text: str) -> list[int]:
        """Without the tokens that some tokenizers put before every text."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _task(self, rng: Random) -> tuple[Callable[[int], str], int]:
        """A function that gives a fresh text of a class, and the number of classes."""
        while True:
            kind = rng.choice(KINDS)
            if kind == "words":
                return _word_task(rng)
            pool = self._pool(rng, kind)
            if pool is not None:
                return pool.take, len(pool.classes)

    def _pool(self, rng: Random, kind: str) -> "_Pool | None":
        """Sentences by class, found as they are needed; None where a class cannot be found."""
        if kind == "corpus" and len(self.corpora) > 1:
            sources = [(corpus, None) for corpus in rng.sample(self.corpora, 2)]
        elif kind in ("book", "corpus"):
            corpus = rng.choices(self.corpora, self.shares)[0]
            sources = [(corpus, rng.randrange(len(corpus))) for _ in range(rng.choice((2, 2, 3)))]
        else:
            corpus = rng.choices(self.corpora, self.shares)[0]
            pool = _Pool(rng, [self._sentences(rng, corpus, None)], CLASSIFIERS[kind], 2)
            return pool if pool.is_whole() else None
        pool = _Pool(rng, [self._sentences(rng, *source) for source in sources], None, len(sources))
        return pool if pool.is_whole() else None

    def _sentences(self, rng: Random, corpus: TokenCorpus, document: int | None) -> Iterator[str]:
        """Sentences of a document, or of all of a corpus, from random places, for ever."""
        while True:
            ids = corpus.document(rng.randrange(len(corpus)) if document is None else document)
            start = rng.randrange(max(1, len(ids) - PASSAGE))
            text = self.tokenizer.decode(ids[start : start + PASSAGE].tolist())
            found = [" ".join(match.group().split()) for match in SENTENCE.finditer(text)][1:]
            yield from [sentence for sentence in found if 15 <= len(sentence) <= LONGEST] or [""]


class _Pool:
    """Sentences waiting in their classes; a class that runs dry is filled from its source."""

    def __init__(
        self, rng: Random, sources: list[Iterator[str]], classify: Callable[[str], int | None] | None, n: int
    ) -> None:
        self.rng, self.sources, self.classify, self.classes = rng, sources, classify, range(n)
        self.waiting: dict[int, list[str]] = defaultdict(list)
        self.used: dict[int, list[str]] = defaultdict(list)

    def is_whole(self) -> bool:
        """Whether every class has a sentence."""
        return all(self._fill(kind) for kind in self.classes)

    def take(self, kind: int) -> str:
        """A sentence of this class; one that has been used where no other is found."""
        if not self._fill(kind):
            return self.rng.choice(self.used[kind])
        sentence = self.waiting[kind].pop()
        self.used[kind].append(sentence)
        return sentence

    def _fill(self, kind: int) -> bool:
        for _ in range(TRIES * 4):
            if self.waiting[kind]:
                return True
            sentence = next(self.sources[kind % len(self.sources)])
            found = kind if self.classify is None else self.classify(sentence)
            if sentence and found is not None and len(self.waiting[found]) < 200:
                self.waiting[found].append(sentence)
        return bool(self.waiting[kind])


def word_examples(rng: Random, n: int) -> list[tuple[str, str]]:
    """n texts of one made-up task with their labels: nothing but the other examples tells which word means which."""
    texts, classes = _word_task(rng)
    labels = _labels(rng, classes)
    return [(texts(kind), labels[kind]) for kind in rng.choices(range(classes), k=n)]


def _word_task(rng: Random) -> tuple[Callable[[int], str], int]:
    """Each class owns some made-up words; a text holds some of them among words of nobody."""
    classes = rng.randrange(2, 6)
    owned = [[make_word(rng).lower() for _ in range(rng.randrange(4, 12))] for _ in range(classes)]
    neutral = [make_word(rng).lower() for _ in range(40)]

    def text(kind: int) -> str:
        words = rng.choices(owned[kind], k=rng.randrange(1, 4)) + rng.choices(neutral, k=rng.randrange(2, 6))
        rng.shuffle(words)
        return " ".join(words) + "."

    return text, classes


def _labels(rng: Random, n: int) -> list[str]:
    """Different words as labels: a natural pair, common words, or made-up ones."""
    draw = rng.random()
    if n == 2 and draw < 0.3:
        return rng.sample(rng.choice(LABEL_PAIRS), 2)
    if draw < 0.7:
        return rng.sample(COMMON_WORDS, n)
    labels: dict[str, None] = {}
    while len(labels) < n:
        labels[make_word(rng).lower()] = None
    return list(labels)
