"""``qsim bench train``: its options, and what it measures."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import Any

from precision.backends import BACKENDS
from qsim.commands.command import Arguments

MOST_LAYERS = 96
DEPTHS = (2, 8)
STEPS = 7

Result = dict[str, Any]


def up_to(most: int, noun: str, example: int) -> Callable[[str], int]:
    """The type of an option that is a number from 1 on."""

    def parsed(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a {noun}; give 1 to {most}, such as {example}")
        return int(text)

    return parsed


def _peak(text: str) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d+)?", text) or float(text) == 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of 10^12 operations a second; give 989 or the like"
        )
    return float(text)


def add_options(parser: argparse.ArgumentParser, count: Callable[[str], int]) -> None:
    """count: the type of an option that is a number from 1 on."""
    depth = up_to(MOST_LAYERS, "number of layers", 4)
    size = "tiny, small or another preset's size; by default small with a vocabulary of 256, which has bars"
    parser.add_argument("--preset", help=size)
    parser.add_argument("--layers", type=depth, metavar="N", help="in place of the size's own")
    depths = "layers at which compiling is timed, 2 and 8 by default"
    parser.add_argument("--depths", type=depth, nargs="+", metavar="N", default=list(DEPTHS), help=depths)
    parser.add_argument("--policy", nargs="+", metavar="NAME", default=[], help="see qsim policy")
    parser.add_argument(
        "--executor", nargs="+", choices=BACKENDS, default=[], help="on which; jax for other policies"
    )
    full = "native policies in the device's own arithmetic against plain bfloat16; so it is on any device but a CPU"
    parser.add_argument("--full-speed", action="store_true", help=full)
    peak = "10^12 operations a second of the device, for its utilisation: 989 of an H100 in bfloat16"
    parser.add_argument("--peak-tflops", type=_peak, metavar="X", help=peak)
    absent = "with --full-speed: of a GPU that is not here (extra gpu): bytes that kernels move, in place of seconds"
    parser.add_argument("--machine", metavar="NAME", help=absent)
    steps = f"rounds in which each contender makes a step (default {STEPS})"
    parser.add_argument("--steps", type=count, metavar="N", default=STEPS, help=steps)


def measured(arguments: Arguments) -> Result:
    """What ``--json`` prints."""
    from qsim.bench import train
    from qsim.bench.threads import bandwidth
    from qsim.config import as_json
    from qsim.runs import environment

    config = train.configured(arguments.preset, arguments.layers)
    chosen = train.entries(arguments.policy, arguments.executor)
    compiling = []  # first: to compile anew throws away what is compiled
    for depth in dict.fromkeys(arguments.depths):
        print(f"compiling, {depth} layers", file=sys.stderr, flush=True)
        compiling += train.compile_rows(config, chosen=chosen, depth=depth)
    print(f"{len(chosen)} policies, at most {arguments.steps} steps", file=sys.stderr, flush=True)
    return {
        "benchmark": "train",
        "environment": environment(),
        "threads": bandwidth().most_threads(),
        "steps": arguments.steps,
        "model": as_json(config.model),
        "batch": config.data.batch_size,
        "data": train.DATA,
        "rows": train.step_rows(config, chosen=chosen, steps=arguments.steps),
        "compiling": compiling,
    }


def counted_full_speed(arguments: Arguments) -> Result:
    """What ``--json`` prints."""
    from qsim.bench import absent, full_speed, train
    from qsim.config import as_json
    from qsim.planning.machines import parse_machine
    from qsim.runs import environment

    config, machine = train.configured(arguments.preset, arguments.layers), parse_machine(arguments.machine)
    policies = list(dict.fromkeys(arguments.policy or full_speed.POLICIES))
    full_speed.check_policies(policies)
    absent.check_machine(machine)
    return {
        "benchmark": "train",
        "environment": environment(),
        "machine": str(machine),
        "model": as_json(config.model),
        "batch": config.data.batch_size,
        "accumulation": config.data.accumulation,
        "rows": absent.rows(config, policies, machine),
    }


def measured_full_speed(arguments: Arguments) -> Result:
    """What ``--json`` prints."""
    from precision.backends import get_backend
    from qsim.bench import full_speed, train
    from qsim.bench.threads import bandwidth
    from qsim.config import as_json
    from qsim.runs import environment

    config = train.configured(arguments.preset, arguments.layers)
    policies = list(dict.fromkeys(arguments.policy or full_speed.POLICIES))
    full_speed.check_policies(policies)
    print(f"{len(policies)} policies, at most {arguments.steps} steps", file=sys.stderr, flush=True)
    return {
        "benchmark": "train",
        "environment": environment(),
        "threads": bandwidth().most_threads(),
        "device": get_backend("jax").devices.platform(),
        "steps": arguments.steps,
        "model": as_json(config.model),
        "batch": config.data.batch_size,
        "accumulation": config.data.accumulation,
        "peak_tflops": arguments.peak_tflops,
        "data": train.DATA,
        "rows": full_speed.rows(config, policies=policies, steps=arguments.steps, peak=arguments.peak_tflops),
    }
