"""A run again with something switched off, and what single passages of it were worth.

Both ask the model itself: a weight says where it looked, only taking something away says what that changed.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from app.generating import begin
from app.session import Run, Session
from app.switches import Switches
from app.writing import Writing, write
from app.zero_gpu import Effort
from longmem.errors import LongMemError
from longmem.generation import GeneratedToken
from longmem.model import LongMemForCausalLM
from longmem.scoring import logprobs_with

MOST_MEASURED = 4_096  # tokens before and with the one that is measured


@dataclass(frozen=True)
class Changed:
    """One token of the run: its log-probability as it was and with something off, in nats."""

    step: int
    text: str
    logprob: float
    logprob_off: float

    @property
    def change(self) -> float:
        return self.logprob_off - self.logprob


@dataclass
class WhatIf:
    """A run from `step` on: the same tokens judged with something off, and what is written instead.

    `off` says what in words.
    """

    step: int
    off: str
    tokens: list[Changed] = field(default_factory=list)
    written: list[GeneratedToken] = field(default_factory=list)
    writes: bool = False

    @property
    def parting(self) -> int | None:
        """The first step at which another token is written; None where the texts are the same so far."""
        pairs = zip((t.text for t in self.tokens), (t.text for t in self.written), strict=False)
        return next((self.step + i for i, (was, now) in enumerate(pairs) if was != now), None)


def check_unchanged(session: Session, run: Run | None) -> Run:
    """The run, if it can be made again on the memory that there is. Errors: LongMemError."""
    if run is None:
        raise LongMemError("There is no run yet: generate or score a text first.")
    if run.recipe.kind == "looked up":
        raise LongMemError("Nothing was predicted here: generate or score a text to see what memory changed.")
    if session.memory_version != run.recipe.version:
        raise LongMemError("Memory has changed since this run: make it again, then something can be switched off.")
    return run


def again(
    model: LongMemForCausalLM, session: Session, run: Run, switches: Switches, step: int, *, stop: threading.Event
) -> Iterator[WhatIf]:
    """The run from `step` on with `switches` off; a generated text is written anew, with the same noise."""
    options = {"exclude": switches.exclude(session.bank), "silence": [*run.recipe.silence, *switches.silence]}
    ids = run_ids(model, run)
    first = len(ids) - len(run.tokens) + step
    found = WhatIf(step, switches.words(), writes=run.recipe.kind == "generated")
    logprobs = logprobs_with(model, ids, first=first, memory=session.bank, before=run.recipe.before, **options)
    rows = run.tokens[run.tokens.step >= step]
    found.tokens = [
        Changed(row.step, row.token, row.logprob, off) for row, off in zip(rows.itertuples(), logprobs, strict=True)
    ]
    yield found
    if found.writes:
        written = run.tokens.token_id[run.tokens.step < step].tolist()
        yield from _written(begin_again(model, session, run, written, options), stop, found)


def effort_of(run: Run) -> Effort:
    """Of a run that is read, and perhaps written, again; a character of its prompt is a token at most."""
    settings = run.recipe.settings
    length = len(run.recipe.prompt) + len(run.tokens)
    return Effort(read=2 * length, written=0 if settings is None else 2 * settings.max_new_tokens)


def begin_again(model: LongMemForCausalLM, session: Session, run: Run, written: list[int], options: dict) -> Writing:
    """Take the run up behind the tokens `written`, for as many tokens as it had left."""
    recipe = run.recipe
    return begin(model, recipe.prompt, recipe.settings, session.bank, recipe.before, written=written, **options)


def _written(writing: Writing, stop: threading.Event, found: WhatIf) -> Iterator[WhatIf]:
    try:
        for (token,) in write([writing], stop):
            found.written.append(token)
            yield found
    finally:
        found.written += writing.end()
    yield found


def worth(model: LongMemForCausalLM, session: Session, run: Run, step: int, chunks: Sequence[int]) -> float:
    """What the log-probability of the run's token `step` loses, in nats, without some chunks."""
    ids = run_ids(model, run)
    end = len(ids) - len(run.tokens) + step + 1
    if end > MOST_MEASURED:
        raise LongMemError(
            f"{end:,} tokens lead to this one; what a passage is worth is measured up to {MOST_MEASURED:,}."
        )
    options = {"first": end - 1, "memory": session.bank, "before": run.recipe.before, "silence": run.recipe.silence}
    was = float(run.tokens.logprob[run.tokens.step == step].iloc[0])
    return was - logprobs_with(model, ids[:end], exclude=chunks, **options)[0]


def run_ids(model: LongMemForCausalLM, run: Run) -> list[int]:
    """All tokens of a run: those of its prompt, then its own."""
    prompt = run.recipe.prompt
    before = model.need_tokenizer()(prompt, add_special_tokens=False, verbose=False)["input_ids"] if prompt else []
    return [
        *(before or [model.generation_config.bos_token_id] * (run.recipe.kind == "generated")),
        *run.tokens.token_id,
    ]
