"""``qsim plan``: what a run needs of a machine, before there is one; compiled for it, with --compile."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsim import config as configuration
from qsim import strict_json
from qsim.commands.command import AddCommand, Arguments
from qsim.commands.options import check_out
from qsim.config import ConfigError, RunConfig
from qsim.mesh import parse_mesh

if TYPE_CHECKING:
    from qsim.planning.machines import Machine
    from qsim.planning.plan import Plan

DEFAULT_POLICY = "native-bf16"


def add(command: AddCommand) -> None:
    parser = command("plan", _plan, "memory, operations and days of a run on a machine; compile its step for one")
    parser.add_argument("preset", nargs="?", metavar="PRESET", help="a size by name; all of the study without one")
    parser.add_argument("--machine", metavar="NAME", help="v4-128, h100-8; by default one for the size")
    parser.add_argument("--chip", metavar="NAME", help="in place of a machine, as many of them as --mesh says")
    parser.add_argument("--mesh", metavar="data=D,model=M", help="by default the first that fits")
    parser.add_argument("--policy", default=DEFAULT_POLICY, help=f"default {DEFAULT_POLICY}")
    parser.add_argument("--sequence", type=_number, metavar="T", help="tokens of a sequence")
    parser.add_argument("--batch", type=_number, metavar="B", help="sequences of a step")
    parser.add_argument("--accumulation", type=_number, metavar="N", help="parts of a batch, by default chosen")
    parser.add_argument("--utilisation", type=_share, metavar="X", help="of the peak, default 0.4")
    compiling = "compile the training step for the machine's topology, and check what comes of it (extra tpu or gpu)"
    parser.add_argument("--compile", action="store_true", help=compiling)
    parser.add_argument(
        "--hlo", type=Path, metavar="FILE", help="with --compile: the optimised program, written there"
    )
    counting = "with --compile: the step that a run makes where it keeps statistics"
    parser.add_argument("--statistics", action="store_true", help=counting)
    parser.set_defaults(config=None)


def _number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1 << 20:
        raise ArgumentTypeError(f"{text!r} is not a number from 1 to 2^20")
    return int(text)


def _share(text: str) -> float:
    if not re.fullmatch(r"\d(\.\d+)?", text) or not 0 < float(text) <= 1:
        raise ArgumentTypeError(
            f"{text!r} is not a share of the peak; give a number above 0 and up to 1, such as 0.4"
        )
    return float(text)


def _plan(arguments: Arguments) -> int:
    from qsim.planning.plan import PRESETS
    from qsim.planning.table import print_plan, print_plans

    check_out(arguments.hlo)
    if not arguments.compile and (arguments.statistics or arguments.hlo):
        raise ConfigError("--statistics and --hlo are of a compiled step; add --compile")
    if arguments.preset is None:
        if arguments.compile or arguments.mesh or arguments.chip:
            raise ConfigError("--compile, --mesh and --chip are of one size; name it, as in qsim plan 6b")
        plans = [_planned(arguments, name) for name in PRESETS]
        if arguments.json:
            print(strict_json.dumps([plan.as_json() for plan in plans], indent=1))
        else:
            print_plans(plans)
        return 0
    plan = _planned(arguments, arguments.preset)
    found = _compiled(plan, arguments.hlo, arguments.statistics) if arguments.compile else None
    if arguments.json:
        print(strict_json.dumps(plan.as_json() | ({} if found is None else {"compiled": found}), indent=1))
    else:
        print_plan(plan, found)
    return 1 if found is not None and not found["passed"] else 0


def _planned(arguments: Arguments, name: str) -> Plan:
    from qsim.planning.choosing import choose
    from qsim.planning.plan import UTILISATION, Plan
    from qsim.policy import parse_policy

    config, policy = _config(arguments, name), parse_policy(arguments.policy)
    mesh = None if arguments.mesh is None else parse_mesh(arguments.mesh)
    machine = _machine(arguments, name)
    if mesh is not None and mesh.count != machine.devices:
        raise ConfigError(
            f"mesh {mesh} has {mesh.count} devices and machine {machine} has {machine.devices}; name all of them, "
            "or --chip in place of --machine"
        )
    given = dict(arguments.overrides)
    way = choose(
        config,
        policy,
        machine,
        mesh=mesh,
        accumulation=arguments.accumulation or given.get("data.accumulation"),
        recompute=given.get("model.recompute"),
        chunks=given.get("data.reduction_chunks"),
    )
    return Plan(way=way, policy=policy, machine=machine, utilisation=arguments.utilisation or UTILISATION)


def _config(arguments: Arguments, name: str) -> RunConfig:
    pairs = [("data.accumulation", 1), *arguments.overrides]
    options = (("model.length", arguments.sequence), ("data.batch_size", arguments.batch))
    pairs += [(key, value) for key, value in options if value is not None]
    if arguments.batch is not None and "data.reduction_chunks" not in dict(arguments.overrides):
        pairs.append(("data.reduction_chunks", 1))
    return configuration.override_all(configuration.preset(name), pairs)


def _machine(arguments: Arguments, name: str) -> Machine:
    from qsim.planning.machines import Machine, parse_chip, parse_machine
    from qsim.planning.plan import MACHINES

    if arguments.chip is None:
        return parse_machine(arguments.machine or MACHINES.get(name, "h100-1"))
    if arguments.machine is not None:
        raise ConfigError("--machine says which chips and how many; leave out --chip")
    return Machine(
        chip=parse_chip(arguments.chip),
        devices=1 if arguments.mesh is None else parse_mesh(arguments.mesh).count,
    )


def _compiled(plan: Plan, hlo: Path | None, statistics: bool) -> dict[str, Any]:
    from qsim.planning.apart import compile_plan

    return compile_plan(plan, hlo, statistics=statistics)
