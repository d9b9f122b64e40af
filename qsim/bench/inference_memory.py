"""The most memory that reading and running a model takes, in a process of its own."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qsim.bench import decoder_readers
from qsim.decoder_config import DecoderConfig

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CARRIER = 4  # bytes of a float32
_SMALL = replace(
    decoder_readers.DEFAULT, layers=1, hidden=64, heads=2, kv_heads=1, head_size=32, intermediate=64, vocabulary=64
)


def peaks(source: Path | None, chosen: Sequence[tuple[str, str]], tokens: int) -> list[dict[str, Any]]:
    """For each (policy, executor): bytes above those of the interpreter with its libraries and kernels loaded.

    ``peak``: of opening the model, holding its weights in the working format and one pass over so many tokens;
    None where the system does not tell.  ``counted``: float32 weights and what the pass cannot do without.
    """
    return [_in_a_process(source, policy, executor, tokens) for policy, executor in chosen]


def _in_a_process(source: Path | None, policy: str, executor: str, tokens: int) -> dict[str, Any]:
    arguments = [json.dumps(None if source is None else str(source)), policy, executor, str(tokens)]
    done = subprocess.run([sys.executable, "-m", __name__, *arguments], capture_output=True, text=True, check=True)
    return {"policy": policy, "executor": executor, **json.loads(done.stdout.splitlines()[-1])}


def counted(config: DecoderConfig, tokens: int) -> dict[str, int]:
    """Bytes by kind.  Of the activations the largest that are there at once: logits, and the sums they are rounded
    from; or, in a layer, scores and weights of attention beside the stream and [Q | K | V]."""
    wide = 2 * tokens * config.vocabulary
    layer = 2 * config.heads * tokens * tokens + tokens * (config.hidden + config.sizes["qkv"])
    return {"weights": _CARRIER * decoder_readers.count(config), "activations": _CARRIER * max(wide, layer)}


def measured(source: Path | None, policy: str, executor: str, tokens: int) -> dict[str, Any]:
    """In this process: kernels are loaded by a pass over a small model first."""
    if source is not None and source.suffix == ".gguf":
        importlib.import_module("gguf.quants")
    _pass(decoder_readers.random_model(_SMALL), policy, executor, 8)
    before = _kilobytes("VmRSS")
    if before is not None:
        _RESET.write_text("5")  # the peak begins anew
    config = _pass(decoder_readers.opened(source), policy, executor, tokens)
    peak = _kilobytes("VmHWM")
    above = None if before is None or peak is None else 1024 * (peak - before)
    return {"peak": above, "counted": counted(config, tokens)}


def _pass(model: Any, policy: str, executor: str, tokens: int) -> DecoderConfig:
    prompt = np.random.default_rng(0).integers(0, model.config.vocabulary, (1, tokens), np.int32)
    decoder_readers.reader(model, policy, executor).read(prompt, None)
    return model.config


def _kilobytes(name: str) -> int | None:
    """Of /proc, which Linux alone has."""
    if not _STATUS.is_file():
        return None
    line = next(one for one in _STATUS.read_text().splitlines() if one.startswith(f"{name}:"))
    return int(line.split()[1])


if __name__ == "__main__":
    _given, _policy, _executor, _tokens = sys.argv[1:]
    _source = json.loads(_given)
    print(json.dumps(measured(None if _source is None else Path(_source), _policy, _executor, int(_tokens))))
