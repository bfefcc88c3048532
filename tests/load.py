"""Many visitors at once: `python -m tests.load [--visitors 50] --json FILE` serves a studio and has them all use it.

Every visitor reads a text of its own, looks what is in its memory, generates twice, and leaves; some close their page
while they generate. Beside what goes wrong it records places in the queue, seconds, and how much memory the server
holds before, during and after: Gradio itself keeps about 1.5 MiB of each of the last 64 pages for an hour. The model
is a tiny random one: what is tried is the studio, not the model.
"""

import argparse
import ctypes
import gc
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from gradio_client import Client

from app import ui
from app.handlers import Studio
from app.session import SessionStore
from longmem.memory_bank import MemoryBank
from tests.conftest import make_tiny_model, make_tiny_tokenizer

WORDS = "The lighthouse keeper wrote the name of every ship in a long ledger, and visitor {} read it. "
BUDGET = 12 * 2**20
SETTINGS = {"max_new_tokens": 24, "temperature": 0.8, "seed": 1}


class Visit:
    """One visitor: what they saw, and how it went."""

    def __init__(self, number: int, url: str):
        self.number, self.url = number, url
        self.ranks: list[int] = []
        self.problems: list[str] = []
        self.seconds = 0.0
        self.freed = False

    def run(self) -> None:
        began = time.monotonic()
        try:
            self._visit()
        except Exception as error:
            self.problems.append(f"{type(error).__name__}: {error}"[:300])
        self.seconds = time.monotonic() - began

    def _visit(self) -> None:
        time.sleep(0.2 * self.number)
        client = Client(self.url, verbose=False, httpx_kwargs={"timeout": 300})
        mine = WORDS.format(self.number) * 40
        summary = client.predict(texts=[mine], api_name="/load_documents")
        for _ in range(2):
            text = self._generate(client, leaves=self.number % 5 == 4)
            if text is None:
                return
            wrong = {row["text"] for row in text["trace"] if row["text"] not in mine}
            if wrong:
                self.problems.append(f"text of another was retrieved: {min(wrong)!r}")
        again = client.predict(api_name="/memory_summary")
        self.freed = again["tokens"] == 0  # for others: the budget is smaller than what all of them read
        if again["tokens"] not in (summary["tokens"], 0):
            self.problems.append(f"memory held {again['tokens']} tokens, not {summary['tokens']}")
        client.close()

    def _generate(self, client: Client, *, leaves: bool) -> dict | None:
        job = client.submit("The keeper", **SETTINGS, api_name="/generate")
        while not job.done():
            rank = job.status().rank
            if rank is not None:
                self.ranks.append(rank)
            if leaves and job.outputs():
                job.cancel()
                client.close()
                return None
            time.sleep(0.05)
        return job.result()


@contextmanager
def served(folder: Path, visitors: int) -> Iterator[tuple[str, SessionStore]]:
    """A studio whose queue holds all visitors, its address and its store of sessions."""
    os.environ["GRADIO_HEARTBEAT_INTERVAL"] = "1"
    stores: list[SessionStore] = []
    begin = Studio.__init__

    def keep(self: Studio, model: object, store: SessionStore, shelf: object) -> None:
        stores.append(store)
        begin(self, model, store, shelf)

    Studio.__init__ = keep
    try:
        demo = ui.build(make_tiny_model(make_tiny_tokenizer()), byte_budget=BUDGET, samples=folder)
    finally:
        Studio.__init__ = begin
    demo.queue(max_size=visitors + 8, default_concurrency_limit=4)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **ui.launch_options())
    try:
        yield url, stores[0]
    finally:
        demo.close()


def mib() -> float:
    """What the process holds, without what its allocator keeps for later."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return round(psutil.Process().memory_info().rss / 2**20, 1)


def crowd(url: str, store: SessionStore, visitors: int) -> dict:
    """Let them all in at once; what went wrong, and how large things were."""
    visits = [Visit(number, url) for number in range(visitors)]
    threads = [threading.Thread(target=visit.run) for visit in visits]
    before, most_bytes, most_mib, most_sessions = mib(), 0, 0.0, 0
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most_bytes, most_sessions = max(most_bytes, store.nbytes), max(most_sessions, len(store))
        most_mib = max(most_mib, psutil.Process().memory_info().rss / 2**20)
        time.sleep(0.2)
    end = time.monotonic() + 60
    while len(store) and time.monotonic() < end:
        time.sleep(0.2)
    writers = [thread.name for thread in threading.enumerate() if thread.name in ("longmem-write", "longmem-generate")]
    gc.collect()  # what nobody holds any more is not left
    return {
        "visitors": visitors,
        "problems": [f"visitor {visit.number}: {problem}" for visit in visits for problem in visit.problems],
        "most_waiting_before_one": max((rank for visit in visits for rank in visit.ranks), default=0),
        "visitors_told_their_place": sum(bool(visit.ranks) for visit in visits),
        "slowest_visit_seconds": round(max(visit.seconds for visit in visits), 1),
        "freed_for_others": sum(visit.freed for visit in visits),
        "byte_budget": BUDGET,
        "most_bytes": most_bytes,
        "most_sessions": most_sessions,
        "sessions_left": len(store),
        "banks_left": sum(type(thing) is MemoryBank for thing in gc.get_objects()) - 1,  # and the shelf's
        "bytes_left": store.nbytes,
        "generations_left": len(writers),
        "mib_before": before,
        "mib_at_most": round(most_mib, 1),
        "mib_after": mib(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--json", type=Path, help="where to record it")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), chosen.visitors) as (url, store):
        crowd(url, store, 2)  # what the first visitors load stays loaded
        found = crowd(url, store, chosen.visitors)
    if chosen.json:
        found = {"command": f"python -m tests.load --visitors {chosen.visitors}", **found}
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
