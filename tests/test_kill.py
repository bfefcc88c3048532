"""kill -9 on a real process while it saves a memory or trains: the last whole state loads."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from random import Random

import pytest

from longmem.memory_archive import read_archive
from longmem.memory_bank import MemoryBank
from longmem.training.pretrain import BackboneTraining, pretrain
from longmem.training.run import Run
from tests.test_training import TEXT, backbone_settings

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")

# Saves one bank after another as `bank` and as `memory.longmem`, the number of each in its document's text.
SAVER = """
import sys, torch
from longmem.memory_archive import write_archive
from longmem.memory_bank import MemoryBank
torch.set_num_threads(1)
for number in range(100_000):
    bank = MemoryBank(memory_layers=[1], kv_heads=2, head_dim=8, fingerprint="f", dtype=torch.float32)
    text = f"{number:06}" * 700
    document = bank.begin_document("text", text)
    keys = torch.full((1, 2, 1400, 8), float(number))
    bank.add(document, keys, keys, torch.arange(1400)[:, None] * 3 + torch.tensor([0, 3]))
    bank.save(sys.argv[1] + "/bank")
    write_archive(sys.argv[1] + "/memory.longmem", bank, with_states=True)
    print(number, flush=True)
"""

TRAINER = """
import json, sys, torch
from longmem.training.pretrain import BackboneTraining, pretrain
torch.set_num_threads(1)
pretrain(BackboneTraining(**json.loads(sys.argv[1])))
"""


def start(code: str, argument: str, **options: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, argument], cwd=ROOT, text=True, **options)


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL


def number_in(bank: MemoryBank) -> int:
    """The number of a bank of SAVER, whose text and keys must agree."""
    (record,) = bank.documents.values()
    number = int(record.text[:6])
    assert record.text == f"{number:06}" * 700
    assert all((keys == number).all() for keys in bank._ring.ordered()[1])
    return number


def test_a_process_killed_while_it_saves_leaves_the_last_whole_memory(tmp_path):
    noise = Random(0)
    for _ in range(3):
        with start(SAVER, str(tmp_path), stdout=subprocess.PIPE) as process:
            for saved in range(5):
                assert int(process.stdout.readline()) == saved
            time.sleep(noise.uniform(0, 0.03))  # in the middle of the next ones, at another place each time
            kill(process)
            whole = max([saved, *map(int, process.stdout.read().split())])
        banks = [MemoryBank.load(tmp_path / "bank"), read_archive(tmp_path / "memory.longmem", fingerprint="f").bank]
        for bank in banks:
            assert whole <= number_in(bank) <= whole + 1
        banks[0].save(tmp_path / "bank")  # works whatever the kill has left


def test_a_process_killed_while_it_trains_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    """It saves after every step, so that most of its time is spent in the middle of a checkpoint."""
    pack, folder = tmp_path / "pack.jsonl", tmp_path / "run"
    pack.write_text("\n".join(json.dumps({"title": str(i), "text": TEXT[i:] * 40}) for i in range(3)))
    options = {**asdict(backbone_settings(pack, folder)), "checkpoint_minutes": 1e-9, "total_tokens": 64 * 2 * 5_000}
    noise = Random(1)
    for resume in (False, True):
        with start(TRAINER, json.dumps(options | {"resume": resume}), stderr=subprocess.DEVNULL) as process:
            before = last_step(folder)
            end = time.monotonic() + 120
            while last_step(folder) < before + 2:
                assert process.poll() is None
                assert time.monotonic() < end, "it does not train"
                time.sleep(0.005)
            time.sleep(noise.uniform(0, 0.2))
            kill(process)
    trained = last_step(folder)
    advanced = []
    advance = Run.advance
    monkeypatch.setattr(Run, "advance", lambda run, tokens: advanced.append(run.step) or advance(run, tokens))
    last = BackboneTraining(**options | {"resume": True, "total_tokens": 64 * 2 * (trained + 3)})
    assert (pretrain(last) / "model.safetensors").exists()
    assert advanced[0] >= trained, "it began anew"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, trained + 4))


def last_step(folder: Path) -> int:
    """The step of the newest checkpoint that has its name."""
    return max((int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoint-*")), default=0)
