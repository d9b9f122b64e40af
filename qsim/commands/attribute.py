"""``qsim attribute``: which site of other arithmetic costs what, and which few must stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from precision.backends import BACKENDS
from qsim import strict_json
from qsim.atomic import write_atomically
from qsim.commands.columns import print_columns
from qsim.commands.command import AddCommand, Arguments
from qsim.commands.options import add_rule, check_out, ruled
from qsim.config import ConfigError
from qsim.units import By

if TYPE_CHECKING:
    from qsim.attribution import Attribution, Cost, Interval
    from qsim.policy import Arithmetic
    from qsim.rerun import Rerun


def add(command: AddCommand) -> None:
    parser = command("attribute", _attribute, "rank what each site of other arithmetic costs a recorded run")
    parser.add_argument("base", type=Path, metavar="RUN")
    parser.add_argument("--to", required=True, metavar="POLICY", help="the other arithmetic")
    add_rule(parser)
    parser.add_argument("--by", choices=get_args(By), default="site", help="what is swapped at a time (default site)")
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="STEP", help="at the weights after it")
    parser.add_argument("--batches", type=int, help="over which costs are averaged (default 8, or what is left)")
    parser.add_argument("--parts", type=int, default=5, help="costliest units taken apart (default 5)")
    parser.add_argument("--minimal", action="store_true", help="the smallest set that must stay as it is")
    parser.add_argument(
        "--tolerance", type=float, help="with --minimal: the largest difference of losses, default 0.01"
    )
    parser.add_argument("--steps", type=int, help="with --minimal: over which the losses are compared, default 10")
    parser.add_argument("--runs", type=int, help="with --minimal: at most so many short runs, default 200")
    parser.add_argument("--executor", choices=BACKENDS, help="default: that of RUN, numba in place of jax")
    parser.add_argument("--data", type=Path, help="where the tokens of RUN now lie")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write what was found, for qsim report")


def _attribute(arguments: Arguments) -> int:
    from qsim.policy import parse_policy
    from qsim.rerun import Rerun
    from qsim.runs import RunFolder

    searched = {"--tolerance": arguments.tolerance, "--steps": arguments.steps, "--runs": arguments.runs}
    given = [name for name, value in searched.items() if value is not None]
    if given and not arguments.minimal:
        raise ConfigError(f"{given[0]} is of the search for a minimal set; add --minimal")
    check_out(arguments.out)
    run = RunFolder.open(arguments.base)
    other = ruled(parse_policy(arguments.to), arguments.rules, run.config.model.layers)
    again = Rerun(run, executor=arguments.executor, data=arguments.data)
    values = _minimal(arguments, again, other) if arguments.minimal else _costs(arguments, again, other)
    if arguments.out is not None:
        write_atomically(arguments.out, (strict_json.dumps(values, indent=1) + "\n").encode())
    if arguments.json:
        print(strict_json.dumps(values, indent=1))
    return 0


def _costs(arguments: Arguments, again: Rerun, other: Arithmetic) -> dict[str, Any]:
    from qsim import progress
    from qsim.attribution import attribute

    found = attribute(
        again,
        other,
        step=arguments.first,
        batches=arguments.batches,
        by=arguments.by,
        stages=arguments.parts,
        progress=progress.shown,
    )
    if not arguments.json:
        _print_costs(found)
    return found.as_json()


def _minimal(arguments: Arguments, again: Rerun, other: Arithmetic) -> dict[str, Any]:
    from qsim import progress
    from qsim.minimal import minimal

    found = minimal(
        again,
        other,
        tolerance=0.01 if arguments.tolerance is None else arguments.tolerance,
        first=arguments.first,
        steps=10 if arguments.steps is None else arguments.steps,
        by=arguments.by,
        runs=200 if arguments.runs is None else arguments.runs,
        progress=progress.shown,
    )
    if not arguments.json:
        kept = "no set of sites suffices" if found.kept is None else ", ".join(found.kept) or "nothing"
        print(f"to stay in {found.base}: {kept}")
        print(f"largest difference of losses over {found.steps} steps: {found.deviation:.3g}, all in {found.other}: "
              f"{found.without:.3g}, tolerance {found.tolerance:g}")  # fmt: skip
        print(f"{found.tried} runs; {found.search}")
    return found.as_json()


def _print_costs(found: Attribution) -> None:
    print(f"{found.base} to {found.other}, weights after step {found.step}, {found.batches} batches, "
          f"loss scale {found.scale:g}; in brackets 95 % of the mean over batches")  # fmt: skip
    groups = (("everything", [found.whole]), ("one swapped", found.alone), ("all but one swapped", found.all_but))
    rows = [_row(cost) | {"": name} for name, costs in groups for cost in costs]
    rows += [_row(cost) | {"": "parts of the costliest, one swapped"} for cost in found.parts]
    print_columns(rows, by="")


def _row(cost: Cost) -> dict[str, Any]:
    return {
        "unit": cost.unit,
        "gradient error": _words(cost.gradient, "{:.3g}"),
        "update error": _words(cost.update, "{:.3g}"),
        "loss": _words(cost.loss, "{:+.2g}"),
        "underflowed": cost.underflowed,
        "overflowed": cost.overflowed,
        "not finite": cost.not_finite,
    }


def _words(value: Interval, form: str) -> str | None:
    if value.mean is None or value.low is None or value.high is None:
        return None
    low, mean, high = (form.format(one) for one in (value.low, value.mean, value.high))
    return f"{mean} [{low}, {high}]"
