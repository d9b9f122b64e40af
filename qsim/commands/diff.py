"""``qsim diff``: the first step, pass, site, tensor and element where two recorded runs part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from precision.backends import BACKENDS
from qsim import strict_json
from qsim.commands.command import AddCommand, Arguments

if TYPE_CHECKING:
    from qsim.diff import Difference
    from qsim.differences import TensorDifference

SHOWN = 12  # tensors, unless all are asked for


def add(command: AddCommand) -> None:
    parser = command("diff", _diff, "name the first tensor and element where two recorded runs differ")
    parser.add_argument("a", type=Path, metavar="RUN_A")
    parser.add_argument("b", type=Path, metavar="RUN_B")
    parser.add_argument("--executor", choices=BACKENDS, help="to compute both on again; numba in place of jax")
    parser.add_argument("--data", type=Path, help="where the tokens of both now lie")
    parser.add_argument("--steps", type=int, default=10, help="how far the difference is followed (default 10)")
    parser.add_argument(
        "--every-tensor", action="store_true", help="where all hashes are equal, compare every tensor of every step"
    )
    parser.add_argument("--all", action="store_true", help=f"every tensor that differs, not the first {SHOWN}")


def _diff(arguments: Arguments) -> int:
    """Exit code 0 where the runs are equal, 1 where they differ."""
    from qsim.diff import diff
    from qsim.runs import RunFolder

    if arguments.steps < 0:
        raise ValueError(f"--steps is {arguments.steps}; follow a difference over 0 steps or more")
    runs = [RunFolder.open(path) for path in (arguments.a, arguments.b)]
    found = diff(
        *runs,
        executor=arguments.executor,
        data=arguments.data,
        growth=arguments.steps,
        every_tensor=arguments.every_tensor,
    )
    if arguments.json:
        print(strict_json.dumps(found.as_json(), indent=1))
    else:
        _print(found, None if arguments.all else SHOWN)
    return 0 if found.equal else 1


def _print(found: Difference, shown: int | None) -> None:
    for words in found.apart:
        print(f"asked apart: {words}")
    for run in found.unreproduced:
        print(f"not reproduced: the hashes that {run} recorded at step {found.step} are not what it gives here")
    if found.equal:
        what = "every tensor, " if found.every_tensor else ""
        print(
            f"equal: {what}loss, gradients, parameters, optimizer at {_steps(found.compared)}, the last {found.last}"
        )
        return
    if found.first is None:
        print(f"step {found.step}: the recorded hashes differ, computed again every tensor is equal")
        return
    _print_first(found, found.first)
    _print_tensors(found.tensors, shown)
    _print_growth(found)


def _steps(count: int) -> str:
    return f"{count:,} step{'' if count == 1 else 's'}"


def _print_first(found: Difference, first: TensorDifference) -> None:
    element = first.first
    where = ", ".join(map(str, element.index))
    print(
        f"first difference: step {found.step}, {first.label}, {first.stage}, element [{where}], flat {element.flat}"
    )
    for run, value, code in ((found.a, element.a, element.code_a), (found.b, element.b, element.code_b)):
        print(f"  {value!r:>24}  {code} in {element.format}  {run}")
    ulps = (
        "not a number in one of them" if element.ulps is None else f"{element.ulps:,} units in the last place apart"
    )
    print(f"  {ulps}; {first.different:,} of {first.size:,} elements of this tensor differ")


def _print_tensors(tensors: tuple[TensorDifference, ...], shown: int | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title="the same step, in the order of computing", title_justify="left")
    for head in ("tensor", "stage", "differ", "of", "largest, ulps", "relative"):
        table.add_column(head, justify="left" if head in ("tensor", "stage") else "right", no_wrap=True)
    for one in tensors[:shown]:
        ulps = "NaN" if one.ulps is None else f"{one.ulps:,}"
        table.add_row(one.label, one.stage, f"{one.different:,}", f"{one.size:,}", ulps, _relative(one.relative))
    console = Console()
    console.width = max(console.width, 100)
    console.print(table)
    if shown is not None and len(tensors) > shown:
        print(f"and {len(tensors) - shown:,} more tensors; --all shows them")


def _print_growth(found: Difference) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title="parameters from there on", title_justify="left")
    for head in ("after step", "loss", "loss of the other", "relative distance", "differ", "of"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in found.growth:
        numbers: list[Any] = [row.step, f"{row.loss_a:.6f}", f"{row.loss_b:.6f}", _relative(row.relative)]
        table.add_row(*map(str, numbers), f"{row.different:,}", f"{row.size:,}")
    Console().print(table)


def _relative(value: float | None) -> str:
    return "–" if value is None else f"{value:.2e}"
