"""``qsim replay``: a recorded run again under other arithmetic: freely, step by step, or product by product."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precision.backends import BACKENDS
from qsim import strict_json
from qsim.atomic import write_atomically
from qsim.commands.columns import print_columns
from qsim.commands.command import AddCommand, Arguments
from qsim.commands.options import add_inject, add_mesh_options, add_rule, asked_faults, asked_mesh, ruled
from qsim.commands.runs import print_rows
from qsim.config import ConfigError

if TYPE_CHECKING:
    from qsim.policy import Arithmetic
    from qsim.runs import RunFolder

MODES = ("free", "shadow", "operands")


def add(command: AddCommand) -> None:
    parser = command("replay", _replay, "run a recorded run again under other arithmetic")
    parser.add_argument("base", type=Path, metavar="RUN")
    parser.add_argument("--as", dest="policies", action="append", required=True, metavar="POLICY")
    add_rule(parser)
    parser.add_argument(
        "--mode", choices=MODES, default="free", help="free: each step from the replay's last; shadow: each from the "
        "recorded weights; operands: the products of one step made again",
    )  # fmt: skip
    parser.add_argument("--executor", choices=BACKENDS, help="default: that of RUN")
    parser.add_argument("--from", dest="first", type=int, metavar="STEP", help="from the state after that step")
    parser.add_argument("--steps", type=int, help="only so many steps")
    parser.add_argument("--sites", default="*", metavar="PATTERN", help="with operands: as in 'layer.0.*.fprop'")
    parser.add_argument("--out", type=Path, required=True, help="folder for one run folder a policy")
    parser.add_argument("--data", type=Path, help="where the tokens of RUN now lie")
    parser.add_argument("--resume", action="store_true", help="go on with interrupted replays")
    add_mesh_options(parser)
    add_inject(parser)


def _replay(arguments: Arguments) -> int:
    from qsim.runs import RunFolder

    base = RunFolder.open(arguments.base)
    _check(arguments)
    if arguments.mode == "operands":
        return _operands(arguments, base)
    policies = _policies(arguments, base)
    return _shadow(arguments, base, policies) if arguments.mode == "shadow" else _free(arguments, base, policies)


def _check(arguments: Arguments) -> None:
    """Options of another mode are refused."""
    if arguments.sites != "*" and arguments.mode != "operands":
        raise ConfigError("--sites chooses products; add --mode operands")
    only_free = {"--mesh": arguments.mesh, "--devices": arguments.devices, "--inject": arguments.faults or None}
    given = [name for name, value in only_free.items() if value is not None]
    if given and arguments.mode != "free":
        raise ConfigError(f"{given[0]} is of a free replay; leave it out, or --mode {arguments.mode}")
    if arguments.mode == "operands" and (arguments.resume or arguments.steps is not None):
        raise ConfigError("--mode operands is of the one step after --from; leave out --resume and --steps")


def _policies(arguments: Arguments, base: RunFolder) -> list[Arithmetic]:
    from qsim.policy import parse_policy

    depth = base.config.model.layers
    return [ruled(parse_policy(name), arguments.rules, depth) for name in dict.fromkeys(arguments.policies)]


def _free(arguments: Arguments, base: RunFolder, policies: Sequence[Arithmetic]) -> int:
    from qsim import progress
    from qsim.data import load_data
    from qsim.replay import replay, resume
    from qsim.runs import RunFolder, require_new
    from qsim.summary import summarise

    mesh = asked_mesh(arguments)
    folders = {policy.name: arguments.out / policy.name for policy in policies}
    begun = {name for name, folder in folders.items() if (folder / "config.json").is_file()}
    for name, folder in folders.items():
        if not (arguments.resume and name in begun):
            require_new(folder)
    corpus = load_data(base.path, arguments.data)
    for policy in policies:
        if arguments.resume and policy.name in begun:
            resume(RunFolder.open(folders[policy.name]), data=arguments.data, progress=progress.shown, mesh=mesh)
            continue
        replay(
            base,
            policy,
            folders[policy.name],
            executor=arguments.executor,
            first=arguments.first,
            steps=arguments.steps,
            data=arguments.data,
            corpus=corpus,
            progress=progress.shown,
            mesh=mesh,
            faults=asked_faults(arguments),
        )
    print_rows(summarise(base.path, list(folders.values())), arguments.json)
    return 0


def _shadow(arguments: Arguments, base: RunFolder, policies: Sequence[Arithmetic]) -> int:
    from qsim import progress
    from qsim.shadow import shadow

    runs = shadow(
        base,
        policies,
        arguments.out,
        executor=arguments.executor,
        first=arguments.first or 0,
        steps=arguments.steps,
        data=arguments.data,
        resume=arguments.resume,
        progress=progress.shown,
    )
    rows = [_shadow_row(run) for run in runs]
    print(strict_json.dumps(rows, indent=1)) if arguments.json else print_columns(rows)
    return 0


def _shadow_row(run: RunFolder) -> dict[str, Any]:
    """Means over the steps that were not skipped, the largest gradient error with its step."""
    rows = list(run.rows("metrics.jsonl"))
    kept = [row for row in rows if not row["skipped"]]
    worst = max(kept, key=lambda row: row["gradient_error"] or 0, default=None)
    return {
        "policy": run.policy.name,
        "steps": len(rows),
        "skipped": len(rows) - len(kept),
        "loss less the run's": _mean([row["loss"] - row["loss_base"] for row in kept]),
        "gradient error": _mean([row["gradient_error"] for row in kept]),
        "largest": worst and worst["gradient_error"],
        "at step": worst and worst["step"],
        "update error": _mean([row["update_error"] for row in kept]),
        "run": str(run.path),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _operands(arguments: Arguments, base: RunFolder) -> int:
    from qsim.model import step_keys
    from qsim.operands import captured, parse_way, remultiplied, save_operands
    from qsim.rerun import Rerun
    from qsim.runs import require_new

    require_new(arguments.out)
    again = Rerun(base, executor=arguments.executor, data=arguments.data)
    depth, step = base.config.model.layers, (arguments.first or 0) + 1
    ways = [ruled(parse_way(name, base.policy), arguments.rules, depth) for name in dict.fromkeys(arguments.policies)]
    products = captured(again, again.at(step - 1), arguments.sites)
    drawn = [step_keys(base.config.model, way, base.config.seed, step) for way in ways]
    pairs = list(zip(ways, drawn, strict=True))
    rows = [remultiplied(one, way, again.executor, keys).as_json() for one in products for way, keys in pairs]
    save_operands(arguments.out / f"step_{step}.safetensors", products)
    write_atomically(arguments.out / f"step_{step}.json", (strict_json.dumps(rows, indent=1) + "\n").encode())
    if arguments.json:
        print(strict_json.dumps(rows, indent=1))
        return 0
    print_columns([row | {"shape": "x".join(map(str, row["shape"]))} for row in rows])
    return 0
