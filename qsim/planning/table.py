"""Plans on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qsim.commands.columns import print_columns
from qsim.memory import GIB
from qsim.planning.plan import Plan

_DERIVED = "derived: the study names the model, its shape is inferred from the number of its parameters"


def print_plans(plans: Sequence[Plan]) -> None:
    """A line a size."""
    print_columns([_row(plan) for plan in plans])
    print(f"\n{_DERIVED}")


def _row(plan: Plan) -> dict[str, Any]:
    row = plan.as_json()
    return {
        "size": row["preset"] + " (derived)" * row["derived"],
        "parameters": f"{row['parameters']:,}",
        "machine": row["machine"],
        "mesh": row["mesh"],
        "parts": row["accumulation"],
        "recomputed": row["recompute"],
        "GiB a device": f"{_gib(plan.way.bytes)} of {_gib(plan.machine.chip.memory)}",
        "operations a step": f"{row['operations_of_a_step']:.3g}",
        "s a step": f"{plan.step_seconds:.2f}",
        "days": f"{plan.days:.1f}",
    }


def print_plan(plan: Plan, found: Mapping[str, Any] | None) -> None:
    """One size; found: what ``compile_plan`` gave."""
    config, chip, mesh = plan.config, plan.machine.chip, plan.way.mesh
    model, row = config.model, plan.as_json()
    label = f" ({_DERIVED})" if row["derived"] else ""
    print(f"{config.preset}{label}")
    print(
        f"{model.parameters:,} parameters in {model.layers} layers of width {model.hidden}, "
        f"{config.data.batch_size} x {model.length} tokens a step, {plan.policy.name}"
    )
    layers = "layers recomputed" if model.recompute else "activations kept"
    print(f"{plan.machine}, mesh {mesh}, batch in {config.data.accumulation} part(s), {layers}\n")
    rows = [{"a device holds": kind.replace("_", " "), "GiB": _gib(size)} for kind, size in plan.way.held.items()]
    print_columns([*rows, {"a device holds": f"sum, of {_gib(chip.memory)}", "GiB": _gib(plan.way.bytes)}])
    print(
        f"\n{row['operations_of_a_step']:.4g} operations a step; at {plan.utilisation:g} of {chip.tflops:g} TFLOP/s "
        f"a device {plan.step_seconds:.2f} s, and {plan.days:.1f} days for {config.steps:,} steps"
    )
    print(f"statistics {_statistics(row['statistics_in_steps'], row['statistics_every'])}")
    if found is not None:
        _print_compiled(found)
    print(plan.command)


def _statistics(kept: float | None, every: int) -> str:
    if kept is None:
        return f"add to tables in memory, value by value, at a cost that is not counted; every {every} steps"
    return f"take the operations of {kept:.1f} such steps; every {every} steps, {kept / every:.1%} of the run"


def _print_compiled(found: Mapping[str, Any]) -> None:
    checks, sizes = found["checks"], found["bytes"]
    print(
        f"compiled for {found['topology']} in {found['seconds_to_compile']:.1f} s, traced in "
        f"{found['seconds_to_trace']:.1f} s; a device holds {_gib(sizes['held'])} GiB, of which "
        f"{_gib(sizes['temporaries'])} are temporaries"
    )
    if found["operations"] is not None:
        print(f"operations of a device by the compiler, the body of a loop once: {found['operations']:.4g}")
    if found["traffic"] is not None:
        print(
            f"kernels of a step {found['traffic']['kernels']:,}, which move {found['traffic']['bytes'] / 1e9:.1f} GB"
        )
    rounds = checks["roundings"]
    print(f"roundings in the program {rounds['survived']} of {rounds['asked']}; sites {checks['sites']}")
    print("products: " + ", ".join(f"{n} {name}" for name, n in checks["products"].items()))
    moved = found["received"]
    print("moves: " + ", ".join(f"{n} {name}" for name, n in checks["moves"].items()))
    if moved:
        once = ", a loop's body once" if found["traffic"] is None else ""
        each = ", ".join(f"{_gib(size)} by {name}" for name, size in sorted(moved.items()))
        print(f"a device receives {_gib(sum(moved.values()))} GiB a step{once}: {each}")
    for fault in checks["faults"]:
        print(f"FAULT: {fault}")


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
