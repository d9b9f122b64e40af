"""Tokens a second of a decoder under policies, a prompt at once and token by token, against float32 and torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from precision import SCHEMES
from qsim.bench import torch_decoder
from qsim.bench.decoder_readers import HALF, TORCH, Entry, Work, reader
from qsim.bench.gemm import PAUSE
from qsim.bench.measurement import Comparison, Contender, Timing, measure
from qsim.bench.threads import limited
from qsim.bench.torch_process import TorchProcess
from qsim.importing import Model
from qsim.policy import parse_policy

FLOAT32 = "fp32"
POLICIES = (FLOAT32, HALF, "fp16", "int8_vectorwise")
TORCH_BAR = 0.5  # of torch's tokens a second: float32 whose order of sums is stated
BUDGET = 20.0  # seconds of a contender's calls
DATA = "one sequence of random tokens, seed 0; weights in memory, rounded to the working format before"

Row = dict[str, Any]


def entries(policies: Sequence[str], executors: Sequence[str]) -> list[tuple[str, str]]:
    """(policy, executor) of every one, on Numba where none is named.  ValueError for an unknown policy."""
    chosen = [(policy, executor) for policy in policies or POLICIES for executor in executors or ("numba",)]
    for policy, _ in chosen:
        if policy not in SCHEMES:
            parse_policy(policy)
    return list(dict.fromkeys(chosen))


def rows(
    model: Model,
    chosen: Sequence[tuple[str, str]],
    *,
    tokens: int,
    new: int,
    repeats: int,
    threads: int,
) -> list[Row]:
    """Two rows a contender, all measured in turns; transformers' Llama is among them where it is installed and the
    model is of its type.

    Errors: ValueError for more positions than the model has.
    """
    config = model.config
    if tokens + new > config.length:
        raise ValueError(
            f"{tokens} tokens and {new} new ones are more than the model's {config.length} positions; "
            "give fewer by --tokens and --new"
        )
    prompt = np.random.default_rng(0).integers(0, config.vocabulary, (1, tokens), np.int32)
    with ExitStack() as stack:
        stack.enter_context(limited(threads))
        work: list[Work | TorchProcess] = [Work(reader=reader(model, *one), prompt=prompt, new=new) for one in chosen]
        if torch_decoder.installed() and torch_decoder.takes(config) and model.quantization is None:
            work.append(stack.enter_context(TorchProcess(model, prompt, new=new, threads=threads)))
        found = []
        for phase, each, calls in (
            ("prompt", tokens, [one.whole for one in work]),
            ("decoding", new, [one.by_token for one in work]),
        ):
            timings = measure([_contender(call, each) for call in calls], repeats, pause=PAUSE, budget=BUDGET)
            found += _compared(phase, each, list(zip([one.entry for one in work], timings, strict=True)))
    return found


def _contender(call: Callable[[], Any], tokens: int) -> Contender:
    return Contender(name="pass", call=call, values=tokens)


def _compared(phase: str, tokens: int, timed: list[tuple[Entry, Timing]]) -> list[Row]:
    best = {(one.name, one.executor): timing.best for one, timing in timed}
    return [
        {
            "phase": phase,
            "contender": one.name,
            "executor": one.executor,
            "tokens": tokens,
            "rounds": len(timing.samples),
            "seconds_best": timing.best,
            "seconds_median": timing.median,
            "tokens_per_second": tokens / timing.best,
            "weights_bytes": one.weights_bytes,
            "speed": {
                "fp32": _speed(timing.best, best.get((FLOAT32, one.executor), best.get((FLOAT32, "numba")))),
                "bf16": _speed(timing.best, best.get((HALF, one.executor), best.get((HALF, "numba")))),
                "torch": _speed(timing.best, best.get((TORCH, "torch"))),
            },
            **_judged(phase, one, timing.best, best.get((TORCH, "torch"))),
        }
        for one, timing in timed
    ]


def _speed(own: float, other: float | None) -> float | None:
    return None if other is None else other / own


def _judged(phase: str, one: Entry, own: float, torch: float | None) -> Row:
    """The bar of float32 on Numba against torch, for whole passes."""
    if torch is None or (phase, one.name, one.executor) != ("prompt", FLOAT32, "numba"):
        return {"bar": None, "met": None}
    comparison = Comparison(quantity="speed", other=TORCH, limit=TORCH_BAR)
    return {"bar": TORCH_BAR, "met": comparison.met(comparison.ratio(own, torch))}
