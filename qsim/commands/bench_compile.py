"""``qsim bench compile``: its options, and what it measures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from qsim.commands.bench_train import MOST_LAYERS, up_to
from qsim.commands.command import Arguments

DEPTHS, REPEATS = (12, 64), 3


def add_options(parser: argparse.ArgumentParser, count: Callable[[str], int]) -> None:
    """count: the type of an option that is a number from 1 on."""
    depth = up_to(MOST_LAYERS, "number of layers", 12)
    parser.add_argument("--preset", default="tiny", help="size in all but its layers (default tiny)")
    parser.add_argument("--policy", default="native-bf16", metavar="NAME", help="default native-bf16")
    parser.add_argument("--machine", metavar="NAME", help="TPUs to compile for, as in qsim plan; this CPU without it")
    depths = "layers, 12 and 64 by default; the bar is that of the first"
    parser.add_argument("--layers", type=depth, nargs="+", metavar="N", default=list(DEPTHS), help=depths)
    text = f"rounds in which each depth has its turn (default {REPEATS})"
    parser.add_argument("--repeats", type=count, metavar="N", default=REPEATS, help=text)


def measured(arguments: Arguments) -> dict[str, Any]:
    """What ``--json`` prints."""
    from qsim import config as configuration
    from qsim.bench import compiling
    from qsim.bench.threads import bandwidth
    from qsim.mesh import Mesh
    from qsim.planning.choosing import choose
    from qsim.planning.machines import parse_machine
    from qsim.policy import parse_policy
    from qsim.runs import environment

    config, policy = configuration.preset(arguments.preset), parse_policy(arguments.policy)
    mesh, topology = Mesh(), None
    if arguments.machine is not None:
        machine = parse_machine(arguments.machine)
        way = choose(configuration.override(config, "data.accumulation", 1), policy, machine)
        config, mesh, topology = way.config, way.mesh, machine.topology
    depths = list(dict.fromkeys(arguments.layers))
    print(f"{len(depths)} depths, {arguments.repeats} rounds", file=sys.stderr, flush=True)
    return {
        "benchmark": "compile",
        "environment": environment(),
        "threads": bandwidth().most_threads(),
        "preset": config.preset,
        "policy": policy.name,
        "mesh": str(mesh),
        "topology": topology,
        "repeats": arguments.repeats,
        "rows": compiling.rows(config, policy, mesh, topology, depths=depths, repeats=arguments.repeats),
    }
