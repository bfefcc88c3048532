"""Generate text and see, token by token, what was retrieved and what memory did to its probability.

`stream` runs transformers' own `generate` in a thread. The effect of memory needs the probability of the same token
after the same text without the bank, so a second pass with an empty bank follows the first, one token behind.
"""

import math
import queue
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation import TemperatureLogitsWarper, TopPLogitsWarper
from transformers.generation.streamers import BaseStreamer

from longmem.errors import LongMemError, Stopped
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM
from longmem.row_memory import RowMemory, row_chunk_id
from longmem.trace import Passage, RetrievalTrace, Seen, TraceRecorder, collect_passages, join_blocks, token_logprobs

RUNNING_TEXT = "generated"
LEAST_TEMPERATURE = 0.01  # below it logits overflow


@dataclass(frozen=True)
class GeneratedToken:
    """One token: its log-probability with the bank and with an empty one, in nats, and their difference, `effect`."""

    step: int
    token_id: int
    text: str
    logprob: float
    logprob_empty: float

    @property
    def effect(self) -> float:
        return self.logprob - self.logprob_empty


class GumbelNoise(LogitsProcessor):
    """Turn the greedy choice into exact sampling, from a generator of its own.

    The most probable token after adding Gumbel noise is a sample of the distribution. Two runs with one seed see the
    same noise, so that they part only where their distributions do; and threads do not disturb each other's seeds.
    """

    def __init__(self, seed: int, skip: int = 0) -> None:
        """skip: steps that were drawn before, in a run that is taken up again."""
        self.generator = torch.Generator().manual_seed(seed)
        self.skip = skip

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        while self.skip > 0:
            torch.rand(scores.shape, generator=self.generator)
            self.skip -= 1
        uniform = torch.rand(scores.shape, generator=self.generator).clamp_(1e-20, 1 - 1e-7)
        return scores - (-uniform.log()).log().to(scores.device, scores.dtype)


class _StopWhenSet(StoppingCriteria):
    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), dtype=torch.bool, device=input_ids.device)


class RunningText:
    """Text of a growing list of tokens, without special tokens.

    pieces: the text that each token adds; a character cut by tokens comes with its last one.
    spans: the character span of each token; all tokens of a cut character span the whole of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, token_ids: list[int]) -> None:
        self.tokenizer, self.ids = tokenizer, []
        self.text = ""
        self.pieces: list[str] = []
        self.spans: list[tuple[int, int]] = []
        self._pending: list[int] = []
        self._before: list[int] = []
        for token_id in token_ids:
            self.add(token_id)

    def add(self, token_id: int) -> str:
        """The text this token adds: empty while a multi-byte character is unfinished."""
        self.ids.append(token_id)
        self._pending.append(token_id)
        piece, n_finished = self._finished()
        end = len(self.text) + len(piece)
        self.pieces.append(piece)
        self.spans.append((len(self.text), end))
        for i in range(len(self.spans) - len(self._pending), len(self.spans) - 1):
            self.spans[i] = (self.spans[i][0], end)
        if n_finished:
            self._before, self._pending = self._pending[n_finished - 1 : n_finished], self._pending[n_finished:]
        self.text += piece
        return piece

    def _finished(self) -> tuple[str, int]:
        """The text of the pending tokens that no later token can change, and how many these are."""
        piece = self._decode(self._pending)
        if not piece.endswith("�"):
            return piece, len(self._pending)
        if len(self._pending) < 4:
            return "", 0
        # A character has four bytes at most: the first of four tokens belongs to none that is still unfinished.
        cuts = range(1, len(self._pending) + 1)
        first = next(n for n in cuts if self._decode(self._pending[:n]) + self._decode(self._pending[n:]) == piece)
        return self._decode(self._pending[:first]), first

    def _decode(self, ids: list[int]) -> str:
        """Text of tokens where they stand: some tokenizers drop the space before the first of what they decode."""
        before, both = (
            self.tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for part in (self._before, self._before + ids)
        )
        return both[len(before) :]


class _Shadow:
    """The same tokens with an empty bank: its next-token logits, one forward a token."""

    def __init__(self, model: LongMemForCausalLM, stop: threading.Event) -> None:
        self.model, self.cache, self.logits_V, self.stop = model, model.new_cache(), None, stop

    @torch.no_grad()
    def read(self, ids_BT: Tensor) -> None:
        options = {"cache": self.cache, "use_cache": True, "logits_to_keep": 1, "stop": self.stop}
        output = self.model(ids_BT.to(self.model.device), **options)
        self.logits_V = output.logits[0, -1]


@dataclass(frozen=True)
class WrittenText:
    """A prompt with the text after it, the characters of each of its tokens, and the states of what left the window.

    It is all that going on with a text takes, and unlike a `Generation` it can be pickled.
    """

    text: str
    spans: list[tuple[int, int]]
    left: RowMemory

    @property
    def n_left(self) -> int:
        """Tokens that have left the window."""
        return self.left.dropped_chunks * self.left.chunk_size + self.left.n_tokens

    @property
    def window_text(self) -> str:
        """What is still in the window."""
        return self.text[self.spans[self.n_left][0] :] if self.n_left < len(self.spans) else ""

    def commit(self, memory: MemoryBank) -> int:
        """Add to a bank, as a document named `generated`, what has left the window.

        Returns: the document's id. Raises LongMemError where nothing has left it yet.
        """
        left = self.left
        if left.is_empty:
            raise LongMemError("Nothing has left the window yet.")
        first = left.dropped_chunks * left.chunk_size
        spans_T2 = torch.tensor(self.spans[first : first + left.n_tokens])
        keys, values = (torch.stack([store[b][0] for b in left.memory_layers]) for store in (left.keys, left.values))
        document = memory.begin_document(RUNNING_TEXT, self.text[: int(spans_T2[-1, 1])])
        memory.add(document, keys, values, spans_T2)
        return document

    def to(self, device: str | torch.device) -> "WrittenText":
        """The same with its states on a device."""
        return WrittenText(self.text, list(self.spans), self.left.to(device))


class Generation(BaseStreamer):
    """A running generation: iterate over its tokens; `trace` and `text` hold what there is so far.

    Leaving the loop, or setting `stop`, ends the run within one token, or one window of the prompt.
    """

    def __init__(
        self,
        model: LongMemForCausalLM,
        prompt_ids: list[int],
        *,
        memory: MemoryBank | None,
        before: tuple[int, int] | None,
        exclude: Collection[int] = (),
        silence: Collection[tuple[int, int | None]] = (),
        stop: threading.Event | None,
    ) -> None:
        self.model, self.memory, self.before = model, memory, before
        self.exclude, self.silence = exclude, silence
        self.stop = stop or threading.Event()
        self.prompt_ids = prompt_ids
        self.recorder = TraceRecorder()
        self.running = RunningText(model.tokenizer, prompt_ids)
        self.tokens: list[GeneratedToken] = []
        self._cache = model.new_cache()
        self._shadow = _Shadow(model, self.stop) if memory is not None and not memory.is_empty else None
        self._queue: queue.Queue[GeneratedToken | BaseException | None] = queue.Queue()
        self._prompt_seen = False
        self._unread: Tensor | None = None
        self._passages: dict[int, Passage] = {}

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)

    @property
    def trace(self) -> RetrievalTrace:
        """What was retrieved for the tokens generated so far."""
        layers = join_blocks(self.recorder, len(self.tokens))
        self._collect_passages(layers)
        return RetrievalTrace(
            tokens=[t.text for t in self.tokens],
            token_ids=[t.token_id for t in self.tokens],
            logprobs=[t.logprob for t in self.tokens],
            logprobs_empty=[t.logprob_empty for t in self.tokens],
            layers=layers,
            passages=self._passages,
        )

    def _collect_passages(self, layers: dict[int, Seen]) -> None:
        finder = PassageFinder(self.memory, self.running, self.model.config.chunk_size)
        self._passages = collect_passages(layers, self._passages, finder)

    def start(self, **options: object) -> "Generation":
        """Run `generate` in a thread."""
        threading.Thread(target=self._work, args=(options,), daemon=True, name="longmem-generate").start()
        return self

    def _work(self, options: dict[str, object]) -> None:
        ids_BT = torch.tensor([self.prompt_ids], device=self.model.device)
        ended: BaseException | None = None
        try:
            with suppress(Stopped):
                self.model.generate(
                    ids_BT,
                    attention_mask=torch.ones_like(ids_BT),
                    cache=self._cache,
                    memory=self.memory,
                    before=self.before,
                    exclude=self.exclude,
                    silence=self.silence,
                    recorder=self.recorder,
                    stop=self.stop,
                    streamer=self,
                    stopping_criteria=StoppingCriteriaList([_StopWhenSet(self.stop)]),
                    **options,
                )
            self._collect_passages(join_blocks(self.recorder, len(self.tokens)))  # while they are in the bank
        except BaseException as error:  # handed to whoever reads the tokens
            ended = error
        self._queue.put(ended)

    @property
    def written(self) -> "WrittenText":
        """Prompt and text so far, to go on from."""
        return WrittenText(self.running.text, self.running.spans, self._cache.overflow)

    @property
    def n_left(self) -> int:
        """Tokens of prompt and text that have left the window."""
        return self.written.n_left

    @property
    def window_text(self) -> str:
        """What prompt and text still have in the window."""
        return self.written.window_text

    def commit(self, memory: MemoryBank) -> int:
        """As `WrittenText.commit`, of prompt and text so far."""
        return self.written.commit(memory)

    def put(self, value: Tensor) -> None:
        """Called by `generate`: once with the prompt, then with every token."""
        if not self._prompt_seen:
            self._prompt_seen, self._unread = True, value.reshape(1, -1)
            return
        if self.stop.is_set():
            raise Stopped
        token_id = int(value.reshape(-1)[0])
        # The model may be a step ahead of its streamer: each token meets the logits of its own step.
        logprob = token_logprobs(self.recorder.waiting_logits.popleft()[None], [token_id])[0]
        logprob_empty = logprob
        if self._shadow is not None:
            self._shadow.read(self._unread)
            logprob_empty = token_logprobs(self._shadow.logits_V[None], [token_id])[0]
            self._unread = value.reshape(1, -1)
        piece = self.running.add(token_id)
        token = GeneratedToken(len(self.tokens), token_id, piece, logprob, logprob_empty)
        self.tokens.append(token)
        self._queue.put(token)

    def end(self) -> None:
        """Called by `generate` when it is done; the thread says so itself."""

    def __iter__(self) -> Iterator[GeneratedToken]:
        try:
            while isinstance(item := self._queue.get(), GeneratedToken):
                yield item
            self._queue.put(item)  # so that iterating again ends too
            if item is not None:
                raise item
        finally:
            self.stop.set()


class PassageFinder:
    """Where a chunk of a bank, or of the running text, stands."""

    def __init__(self, memory: MemoryBank | None, running: RunningText, chunk_size: int) -> None:
        self.memory, self.running, self.chunk_size = memory, running, chunk_size
        self.documents = memory.documents if memory is not None else {}  # counted anew at each access

    def __call__(self, chunk: int) -> Passage:
        if chunk < 0:
            first = row_chunk_id(chunk) * self.chunk_size
            spans = self.running.spans[first : first + self.chunk_size]
            start, end = spans[0][0], spans[-1][1]
            return Passage(RUNNING_TEXT, start, end, self.running.text[start:end])
        where = self.memory.chunk(chunk)
        record = self.documents[where.document]
        return Passage(record.name, where.start, where.stop, record.text[where.start : where.stop])


def stream(
    model: LongMemForCausalLM,
    prompt: str,
    *,
    memory: MemoryBank | None,
    written: Sequence[int] = (),
    before: tuple[int, int] | None = None,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    greedy: bool = False,
    seed: int = 0,
    exclude: Collection[int] = (),
    silence: Collection[tuple[int, int | None]] = (),
    stop: threading.Event | None = None,
) -> Generation:
    """Continue a prompt; returns at once with a `Generation` to iterate over.

    Args:
        memory: the bank to retrieve from, or None for an empty memory.
        written: tokens that stand after the prompt and were written before: the run is taken up behind them.
        before: (document, token): retrieve of this document only what ends there.
        temperature: at least 0.01; smaller is bolder. top_p: above 0, at most 1.
        seed: of the sampling noise; runs with one seed share it.
        exclude: chunk ids that are switched off.
        silence: (memory layer, query head) that do without memory; None instead of a head for all of its layer.
        stop: an event that ends the run.

    Raises:
        LongMemError: an option outside what is allowed.
    """
    check_options(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, greedy=greedy)
    if memory is not None:
        model.check_bank(memory)
    processors = LogitsProcessorList()
    if not greedy:
        processors.append(TemperatureLogitsWarper(float(temperature)))
        if top_p < 1:
            processors.append(TopPLogitsWarper(float(top_p)))
        processors.append(GumbelNoise(seed, skip=len(written)))
    switches = {"exclude": exclude, "silence": silence}
    prompt_ids = _prompt_ids(model, prompt) + list(written)
    generation = Generation(model, prompt_ids, memory=memory, before=before, stop=stop, **switches)
    return generation.start(max_new_tokens=max_new_tokens, do_sample=False, logits_processor=processors)


def check_options(*, max_new_tokens: int, temperature: float, top_p: float, greedy: bool) -> None:
    """Raises LongMemError for what `stream` would refuse, before anything is loaded or read."""
    if max_new_tokens < 1:
        raise LongMemError(f"max_new_tokens is {max_new_tokens}; it must be at least 1.")
    if not greedy and not LEAST_TEMPERATURE <= temperature < math.inf:
        raise LongMemError(
            f"temperature is {temperature}; it must be at least {LEAST_TEMPERATURE} (for the most probable token use "
            "greedy)."
        )
    if not 0 < top_p <= 1:
        raise LongMemError(f"top_p is {top_p}; it must be above 0 and at most 1.")


def _prompt_ids(model: LongMemForCausalLM, prompt: str) -> list[int]:
    ids = model.need_tokenizer()(prompt, add_special_tokens=False, verbose=False)["input_ids"]
    return ids or [model.generation_config.bos_token_id]
