"""What happens to several processes when one of them is told to stop, or is killed: they stop together."""

from __future__ import annotations

import signal
import time
from importlib.util import find_spec
from pathlib import Path
from subprocess import Popen

import numpy as np
import pytest
from processes import HEEDING, set_executor, slowed, start_eight, start_one, start_two
from small_runs import assert_sentence, hash_rows, small_flags, small_run, write_text

from qsim.checkpoints import saved_steps
from qsim.replay import resume
from qsim.runs import RunFolder

STEPS = 16
CHANGES = {"steps": STEPS, "model.layers": 1, "model.dropout": 0.1, "record.checkpoint_every": 2}
CHANGES |= {"record.statistics_every": 0, "data.reduction_chunks": 4}
SLOW = HEEDING + slowed(1)  # the first signal of a test comes long before the last step
FORM = "orbax" if find_spec("orbax") else "safetensors"


def rows(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def losses(run: Path) -> np.ndarray:
    return np.array([row["loss"] for row in RunFolder(run).rows("metrics.jsonl") if "loss" in row])


def stopped(processes: list[Popen[str]], run: Path, number: signal.Signals, *, struck: int) -> list[tuple[int, str]]:
    """Exit code and last line on standard error of each, one having been sent a signal after two more steps."""
    before, deadline = rows(run), time.monotonic() + 300
    while rows(run) < before + 2 and processes[0].poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert rows(run) >= before + 2, [process.communicate() for process in processes if process.poll() is not None]
    processes[struck].send_signal(number)
    ended = [process.communicate(timeout=120) for process in processes]
    return [(p.returncode, (err.splitlines() or [""])[-1]) for p, (_, err) in zip(processes, ended, strict=True)]


def finish(process: Popen[str]) -> None:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run as one device makes it, left in peace."""
    return small_run(tmp_path_factory.mktemp("whole") / "run", "fp16", **CHANGES)


def begin(whole: RunFolder, run: Path) -> list[Popen[str]]:
    text = whole.path.parent / "text.txt"
    words = ("--policy", "fp16", "--text", text, "--out", run, "--checkpoints", FORM, *small_flags(**CHANGES))
    return start_two(*words, before=SLOW, cluster=True)


@pytest.mark.thinned(0.5)
def test_a_signal_to_one_stops_both(tmp_path: Path, whole: RunFolder) -> None:
    """To the one that does not write; the run is then ended by one device.  A cluster tells where they meet."""
    run = tmp_path / "run"
    for code, line in stopped(begin(whole, run), run, signal.SIGTERM, struck=1):
        assert code == 143
        assert_sentence(line, "interrupted; what was saved is whole", "--resume")
    assert saved_steps(run)[-1] == rows(run) < STEPS
    set_executor(run, "numba")
    assert hash_rows(resume(RunFolder.open(run))) == hash_rows(whole)


@pytest.mark.exhaustive
def test_one_ends_with_the_other(tmp_path: Path, whole: RunFolder) -> None:
    """Ctrl-C to the first, SIGKILL to the second, SIGKILL to the first, SIGTERM to eight devices of one process.

    Resumed each time, at last to the end by two again.
    """
    run = tmp_path / "run"
    assert [code for code, _ in stopped(begin(whole, run), run, signal.SIGINT, struck=0)] == [130, 130]
    for struck in (1, 0):
        ended = stopped(start_two("--resume", "--out", run, before=SLOW), run, signal.SIGKILL, struck=struck)
        assert ended[struck][0] == -signal.SIGKILL
        code, line = ended[1 - struck]
        assert code == 1
        assert_sentence(line, "qsim train: another process of this run ended or answers no more", "--resume")
    ended = stopped([start_eight("--resume", "--out", run, before=SLOW)], run, signal.SIGTERM, struck=0)
    assert ended[0][0] == 143
    last = start_two("--resume", "--out", run)
    assert [(process.communicate(timeout=300), process.returncode)[1] for process in last] == [0, 0]
    assert hash_rows(run) == hash_rows(whole)


@pytest.mark.exhaustive
@pytest.mark.parametrize("policy", ["native-bf16", "native-fp16"])
def test_native_losses_are_those_of_one_device(tmp_path: Path, policy: str) -> None:
    """To 1e-3: of two processes, one stopped on the way, which eight devices of one process go on for."""
    words = ("--policy", policy, "--text", write_text(tmp_path), "--checkpoints", FORM, *small_flags(**CHANGES))
    finish(start_one(*words, "--executor", "jax", "--out", tmp_path / "one"))
    run = tmp_path / "run"
    assert [code for code, _ in stopped(start_two(*words, "--out", run, before=SLOW), run, signal.SIGTERM, struck=0)]
    before = len(losses(run))
    assert before < STEPS
    finish(start_eight("--resume", "--out", run))
    expected, found = losses(tmp_path / "one"), losses(run)
    assert len(found) == len(expected) == STEPS
    print(policy, before, np.abs(found - expected).max(), expected[0], expected[-1])
    assert np.abs(found - expected).max() <= 1e-3
