"""A step of native policies in hardware arithmetic against the same step in plain bfloat16 JAX: tokens a second.

utilisation = (6 N + 12 L h T) tokens / seconds / peak, operations as ``qsim.planning.work`` counts them
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from qsim.bench.gemm import PAUSE
from qsim.bench.markdown import as_markdown, marked
from qsim.bench.measurement import Contender, measure, seconds
from qsim.bench.plain_step import PlainStep
from qsim.bench.table import MET, print_machine, ratio_in_words
from qsim.bench.train import BUDGET, Training
from qsim.bench.train_table import size_in_words
from qsim.commands.columns import print_columns
from qsim.config import RunConfig
from qsim.planning.work import operations_of_a_token
from qsim.policy import parse_policy
from qsim.step import Step

PLAIN = "plain bfloat16"
POLICIES = ("native-bf16", "native-fp16")
BAR = 0.9  # of the plain step's tokens a second

Row = dict[str, Any]


def check_policies(names: Sequence[str]) -> None:
    """ValueError for a policy that promises bits, and so has no hardware arithmetic."""
    for name in names:
        if parse_policy(name).promises_bits:
            raise ValueError(f"policy {name} promises bits and is never computed at full speed; name a native one")


def rows(config: RunConfig, *, policies: Sequence[str], steps: int, peak: float | None) -> list[Row]:
    """One row for the plain step, one a policy, measured in turns; peak: of the device, in 10^12 a second."""
    makers: dict[str, Callable[[], Training]] = {PLAIN: partial(_plain, config)}
    makers |= {name: partial(_native, config, name) for name in policies}
    trainings, first = {}, {}
    for name, make in makers.items():
        trainings[name] = make()
        first[name] = seconds(trainings[name])
    tokens = config.data.batch_size * config.model.length
    contenders = [Contender(name=name, call=training, values=tokens) for name, training in trainings.items()]
    timings = dict(zip(trainings, measure(contenders, steps, pause=PAUSE, budget=BUDGET), strict=True))
    plain, work = timings[PLAIN].best, operations_of_a_token(config.model) * tokens
    return [
        {
            "policy": name,
            "rounds": len(timing.samples),
            "seconds_first": first[name],
            "seconds_best": timing.best,
            "seconds_median": timing.median,
            "tokens_per_second": tokens / timing.best,
            "utilisation": None if peak is None else work / timing.best / (peak * 1e12),
            "ratio": plain / timing.best,
            "bar": None if name == PLAIN else BAR,
            "met": None if name == PLAIN else plain / timing.best >= BAR,
            "loss": trainings[name].losses[-1],
        }
        for name, timing in timings.items()
    ]


def _plain(config: RunConfig) -> Training:
    return Training(config, parse_policy("fp32"), PlainStep(config, dtype="bfloat16"))


def _native(config: RunConfig, name: str) -> Training:
    policy = parse_policy(name)
    return Training(config, policy, Step(config, policy, "jax", donates=True, hardware=True))


def print_full_speed(result: Mapping[str, Any]) -> None:
    print_machine(result)
    peak = "no peak given" if result["peak_tflops"] is None else f"peak {result['peak_tflops']:g} TFLOP/s"
    print(f"{result['device']}; {size_in_words(result)} in {result['accumulation']} parts; {result['data']}")
    print(f"best of at most {result['steps']} steps in which the contenders take turns; {peak}\n")
    print_columns([_in_words(row) for row in result["rows"]])


def full_speed_markdown(result: Mapping[str, Any]) -> str:
    """A line a contender; bold where the bar is missed."""
    lines = [
        ["policy", "tokens a second", "tokens a second / those of plain bfloat16", "bar", "utilisation"],
        ["---"] * 5,
    ]
    for row in result["rows"]:
        words = _in_words(row)
        ratio = marked(words["x plain"] or "", row)
        lines.append([row["policy"], words["tokens/s"] or "", ratio, words["bar"] or "", words["utilisation"] or ""])
    return as_markdown(lines)


def _in_words(row: Row) -> dict[str, str | None]:
    return {
        "policy": row["policy"],
        "steps": str(row["rounds"]),
        "first s": f"{row['seconds_first']:.1f}",
        "ms": f"{row['seconds_best'] * 1e3:.1f}",
        "median": f"{row['seconds_median'] * 1e3:.1f}",
        "tokens/s": f"{row['tokens_per_second']:,.0f}",
        "utilisation": None if row["utilisation"] is None else f"{100 * row['utilisation']:.1f} %",
        "x plain": ratio_in_words(row["ratio"]),
        "bar": None if row["bar"] is None else f">= {row['bar']:g}",
        "met": MET[row["met"]],
        "loss": f"{row['loss']:.4f}",
    }
