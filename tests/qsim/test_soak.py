"""Runs that are killed, again and again: what is resumed ends with the hashes of a run left in peace, byte for byte.

SIGKILL at random moments, SIGKILL before each operation on the file system, damage to the newest checkpoints, a full
disk.  The short versions of the first two run always, the long ones under the mark ``exhaustive``.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from processes import COMMAND, HEEDING, environment, slowed
from small_runs import assert_sentence, write_text

from qsim.checkpoints import checkpoint_path, load_checkpoint, saved_steps

STEPS = 24
# On NumPy, which compiles nothing, a process is at its first step in less than a second.
SETTINGS = {
    "policy": "fp16",
    "model.layers": 1,
    "model.hidden": 8,
    "model.length": 8,
    "model.dropout": 0.1,
    "data.batch_size": 2,
    "data.reduction_chunks": 2,
    "data.validation_batches": 1,
    "data.order": "epochs",
    "optimizer.warmup_steps": 2,
    "record.checkpoint_every": 3,
    "record.statistics_every": 5,
}
FLAGS = [word for key, value in SETTINGS.items() for word in (f"--{key}", str(value))]
DYING = """
import os, signal, sys
def count(event, arguments):
    global left
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") and str(arguments[0]).startswith(path):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
"""


def start(
    folder: Path,
    text: Path,
    *,
    steps: int = STEPS,
    before: str = "",
    executor: str = "numpy",
    more: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """``qsim train`` into a folder, as a user would go on with it: resumed, or anew where nothing was saved yet.

    before: what the process does first; more: words of the command line.
    """
    resumed = bool(saved_steps(folder))
    if not resumed:
        shutil.rmtree(folder, ignore_errors=True)
    words = ["train", "--text", str(text), "--out", str(folder), "--steps", str(steps)]
    words += [*FLAGS, "--executor", executor, *(["--resume"] if resumed else []), *more]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", before + COMMAND, *words], env=environment(1), **pipes)


def dying(path: Path, call: int) -> str:
    """A death before the call of that number that opens, makes, renames or removes something at or below a path."""
    return f"path, left = {str(path)!r}, {call}\n{DYING}"


def finish(folder: Path, text: Path, **how: Any) -> str:
    """Carry a run to its end; what it printed on standard error."""
    process = start(folder, text, **how)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return err


def hashes(folder: Path) -> bytes:
    return (folder / "hashes.jsonl").read_bytes()


def assert_whole(folder: Path) -> None:
    """Every checkpoint under its own name loads and passes its hashes."""
    for step in saved_steps(folder):
        assert load_checkpoint(folder, step).step == step


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def peace(tmp_path_factory: pytest.TempPathFactory, text: Path) -> tuple[Path, float]:
    """A run left in peace and the seconds it took."""
    folder, began = tmp_path_factory.mktemp("peace") / "run", time.monotonic()
    finish(folder, text)
    return folder, time.monotonic() - began


# SIGKILL at random moments


def kill_at_random(folder: Path, text: Path, seconds: float, draw: random.Random, **how: Any) -> bool:
    """Whether the process was alive when its moment came; where it was not, it has finished the run."""
    process = start(folder, text, **how)
    try:
        _, err = process.communicate(timeout=draw.uniform(0, seconds))
    except subprocess.TimeoutExpired:
        process.kill()
        _, err = process.communicate()
    assert "damaged" not in err
    assert process.returncode in (0, -signal.SIGKILL), err
    return process.returncode != 0


def soak(folder: Path, text: Path, peace: tuple[Path, float], kills: int, **how: Any) -> int:
    """Runs, each killed until it ends by itself, until so many kills have been dealt; how many runs that took.

    Moments: up to the seconds that the whole run takes in peace.
    """
    draw, dealt, runs = random.Random(kills), 0, 0
    while dealt < kills:
        runs += 1
        run = folder / str(runs)
        while dealt < kills and kill_at_random(run, text, peace[1], draw, **how):
            dealt += 1
            assert_whole(run)
        finish(run, text, **how)
        assert hashes(run) == hashes(peace[0])
    return runs


@pytest.mark.thinned(0.5)
def test_three_kills(tmp_path: Path, text: Path, peace: tuple[Path, float]) -> None:
    soak(tmp_path, text, peace, 3)


@pytest.mark.exhaustive
def test_fifty_kills(tmp_path: Path, text: Path, peace: tuple[Path, float]) -> None:
    print(f"50 kills over {soak(tmp_path, text, peace, 50)} runs")


# Compiling takes longer than 24 steps; so slow, half of the moments lie in the steps.
UNHURRIED = slowed(0.6)


@pytest.mark.exhaustive
def test_twelve_kills_under_jax(tmp_path: Path, text: Path, peace: tuple[Path, float]) -> None:
    """To the hashes of NumPy."""
    how = {"executor": "jax", "before": UNHURRIED}
    began = time.monotonic()
    finish(tmp_path / "peace", text, **how)
    seconds = time.monotonic() - began
    assert hashes(tmp_path / "peace") == hashes(peace[0])
    runs = soak(tmp_path, text, (peace[0], seconds), 12, **how)
    print(f"12 kills over {runs} runs, of {seconds:.0f} s each in peace")


# SIGKILL before an operation on the file system


def dies_and_resumes(folder: Path, text: Path, call: int, steps: int) -> bool:
    """Whether there was such a call before the run's end."""
    process = start(folder, text, steps=steps, before=dying(folder, call))
    _, err = process.communicate(timeout=120)
    if process.returncode == 0:
        return False
    assert process.returncode == -signal.SIGKILL, err
    assert_whole(folder)
    assert "damaged" not in finish(folder, text, steps=steps)
    assert not list(folder.rglob("*.tmp"))
    return True


@pytest.mark.thinned(0.5)
@pytest.mark.parametrize(("call", "left"), [(2, ["state.safetensors"]), (7, ["state.json", "state.safetensors"])])
def test_death_inside_the_checkpoint_writer(
    tmp_path: Path, text: Path, peace: tuple[Path, float], call: int, left: list[str]
) -> None:
    """Call 2 finds the tensors written and nothing else, call 7 all but the folder's new name."""
    temporary = tmp_path / "run" / "checkpoints" / ".step_6.tmp"
    process = start(tmp_path / "run", text, before=dying(temporary, call))
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert sorted(path.name for path in temporary.iterdir()) == left
    assert saved_steps(tmp_path / "run") == [0, 3]
    finish(tmp_path / "run", text)
    assert hashes(tmp_path / "run") == hashes(peace[0])


@pytest.mark.exhaustive
def test_death_before_every_call(tmp_path: Path, text: Path) -> None:
    """A run of seven steps and two checkpoints between."""
    finish(tmp_path / "peace", text, steps=7)
    call = 1
    while dies_and_resumes(tmp_path / str(call), text, call, 7):
        assert hashes(tmp_path / str(call)) == hashes(tmp_path / "peace")
        call += 1
    print(f"{call - 1} calls")


# A second signal

SLEEPING = """
import time
from qsim.training import _Loop
advance = _Loop.advance
def slow(loop, position):
    if position.step == 5:
        print("asleep", flush=True)
        time.sleep(100)
    return advance(loop, position)
_Loop.advance = slow
"""


@pytest.mark.thinned(0.5)
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_wait_for_the_step(
    tmp_path: Path, text: Path, peace: tuple[Path, float], second: signal.Signals
) -> None:
    run, began = tmp_path / "run", time.monotonic()
    process = start(run, text, before=HEEDING + SLEEPING)
    assert process.stdout is not None
    assert process.stdout.readline() == "asleep\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(second)
    process.communicate(timeout=60)
    assert process.returncode == (130 if second == signal.SIGINT else -signal.SIGTERM)
    assert time.monotonic() - began < 60
    assert saved_steps(run) == [0, 3]
    finish(run, text)
    assert hashes(run) == hashes(peace[0])


# A damaged checkpoint


def flip(path: Path, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)


@pytest.fixture
def half(tmp_path: Path, peace: tuple[Path, float]) -> Path:
    """The run as a kill after its last checkpoint leaves it."""
    run = Path(shutil.copytree(peace[0], tmp_path / "run"))
    for name in ("metrics.jsonl", "hashes.jsonl"):
        lines = (run / name).read_text().splitlines(keepends=True)
        (run / name).write_text("".join(lines[: STEPS - 1]) + lines[STEPS - 1][:9])
    return run


def test_damaged_checkpoints_are_passed_over(half: Path, text: Path, peace: tuple[Path, float]) -> None:
    """A flipped bit, a cut-off file and a missing one: the checkpoint before them all is used."""
    newest, middle, oldest = (checkpoint_path(half, STEPS - 3 * i) for i in range(3))
    flip(newest / "state.safetensors", -5)
    (middle / "state.safetensors").write_bytes((middle / "state.safetensors").read_bytes()[:-3])
    (oldest / "state.json").unlink()
    err = finish(half, text)
    warned = [line for line in err.splitlines() if "damaged" in line]
    assert len(warned) == 3
    for line, folder in zip(warned, (newest, middle, oldest), strict=True):
        assert_sentence(line, "qsim train: checkpoint", repr(str(folder)), f"{folder.name}.damaged", "is used")
    assert f"step {STEPS}/{STEPS}" in err
    assert hashes(half) == hashes(peace[0])
    assert_whole(half)


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own in memory, where the system permits a mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
def test_a_full_disk_is_told_and_survived(small_disk: Path, text: Path, peace: tuple[Path, float]) -> None:
    run = small_disk / "run"
    process = start(run, text)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert_sentence(
        err.splitlines()[-1], "qsim train: no space left on device", str(run), "free some space", "--resume"
    )
    assert not list(small_disk.rglob("*.tmp"))
    assert saved_steps(run)
    assert_whole(run)
    for name in ("metrics.jsonl", "hashes.jsonl"):
        assert (run / name).read_bytes().endswith(b"}\n")
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    finish(run, text)
    assert hashes(run) == hashes(peace[0])
