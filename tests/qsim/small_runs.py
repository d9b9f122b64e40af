"""Runs small enough for a test: their configuration, text and folders, and the questions asked of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qsim.config import RunConfig, override_all, preset
from qsim.corpus import Corpus
from qsim.progress import Progress, silent
from qsim.runs import RunFolder
from qsim.training import train_new

STEPS = 6
_WORDS = (
    b"the sum of its products is kept in float32 and then rounded to nearest even so that no value "
    b"underflows unless its exponent lies below the smallest one"
).split()
SMALL: dict[str, Any] = {
    "steps": STEPS,
    "model.hidden": 16,
    "model.length": 16,
    "data.batch_size": 4,
    "data.reduction_chunks": 2,
    "data.validation_batches": 2,
    "optimizer.warmup_steps": 2,
    "record.checkpoint_every": 2,
    "record.statistics_every": 3,
}


def small_config(**changes: Any) -> RunConfig:
    """Two layers of width 16 on rows of 16 bytes; changes by dotted path, ``**{"model.dropout": 0.1}``."""
    return override_all(preset("tiny"), (SMALL | changes).items())


def small_flags(**changes: Any) -> list[str]:
    """The same configuration as words of a command line."""
    return [word for key, value in (SMALL | changes).items() for word in (f"--{key}", json.dumps(value))]


def write_text(folder: Path, words: int = 900) -> Path:
    """A few KB of words, drawn by a linear congruential generator; the same bytes every time."""
    state, drawn = 1, []
    for _ in range(words):
        state = (1103515245 * state + 12345) % (1 << 31)
        drawn.append(_WORDS[(state >> 16) % len(_WORDS)])
    path = folder / "text.txt"
    path.write_bytes(b" ".join(drawn))
    return path


def corpus_of_numbers() -> Corpus:
    """4,000 tokens, 0 to 49 again and again."""
    tokens = (np.arange(4000) % 50).astype("<u2")
    return Corpus(tokens=tokens, vocabulary_size=50, tokenizer="none", sources=("numbers",), held_out=400)


def small_run(
    out: Path,
    policy: str = "fp32",
    *,
    progress: Callable[..., Progress] = silent,
    **changes: Any,
) -> RunFolder:
    """A run of ``small_config`` on Numba, trained on a text written beside its folder."""
    out.parent.mkdir(parents=True, exist_ok=True)
    text = write_text(out.parent)
    return train_new(out, small_config(**changes), policy, "numba", [text], progress=progress)


class _Interrupted:
    """Progress in which the user presses Ctrl-C right after a step."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __enter__(self) -> _Interrupted:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, step: int, loss: float) -> None:
        del loss
        if step == self.after:
            raise KeyboardInterrupt


def interrupted(after: int) -> Callable[..., Progress]:
    def begin(name: str, begun: int, steps: int) -> Progress:
        del name, begun, steps
        return _Interrupted(after)

    return begin


def hash_rows(run: RunFolder | Path) -> list[dict[str, Any]]:
    """hashes.jsonl as it is."""
    path = run.path if isinstance(run, RunFolder) else run
    return [json.loads(line) for line in (path / "hashes.jsonl").read_text().splitlines()]


def figures(run: RunFolder, *left_out: str) -> list[dict[str, Any]]:
    """metrics.jsonl without the time a step took, and without what is named."""
    hidden = {"seconds", *left_out}
    return [{k: v for k, v in row.items() if k not in hidden} for row in run.rows("metrics.jsonl")]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, every folder with None."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def assert_sentence(message: object, *parts: str) -> None:
    """One line that holds every part: the value in question and the remedy."""
    text = str(message)
    assert text
    assert "\n" not in text, text
    for part in parts:
        assert part in text, f"{part!r} is not in {text!r}"


def assert_same_trees(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """The same names, shapes and float32 bits."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        x, y = np.asarray(value), np.asarray(b[name])
        assert (x.dtype, x.shape) == (y.dtype, y.shape), name
        assert x.tobytes() == y.tobytes(), name
