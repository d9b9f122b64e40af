"""``qsim experiment``: the paper's figures, tables and claims, trained, measured, drawn and judged."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from precision.backends import BACKENDS
from qsim.commands.columns import print_columns
from qsim.commands.command import AddCommand, Arguments

SCALES = ("smoke", "small", "medium", "125m", "410m", "6b")


def add(command: AddCommand) -> None:
    parser = command("experiment", _experiment, "train, measure, draw and judge what the paper claims; resumable")
    parser.add_argument("names", nargs="+", metavar="NAME", help="experiments, or all; list says which there are")
    parser.add_argument("--scale", choices=SCALES, default="small", help="size of the models (default small)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="rows made side by side (default 1)")
    parser.add_argument("--seeds", type=int, metavar="N", help="how many; the scale's own by default")
    parser.add_argument("--executor", choices=BACKENDS, help="the scale's own by default")
    parser.add_argument(
        "--text", type=Path, nargs="+", default=[], metavar="PATH", help="or .bin; embedded text otherwise"
    )
    parser.add_argument("--tokenizer-model", type=Path, metavar="FILE", help="SentencePiece's, of text or of a .bin")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data of other rows (OUT/data), taken as it is")
    parser.add_argument("--out", type=Path, metavar="DIR", help="rows, figures, verdicts (default experiments-SCALE)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="run folders, to be thrown away (default OUT/runs)")
    parser.add_argument("--compare", type=Path, nargs="+", default=[], metavar="MODEL", help="into figures with room")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="then stop, to be gone on with later")
    parser.add_argument("--no-make", action="store_true", help="judge and draw what is in OUT; train nothing")
    parser.add_argument(
        "--plan", action="store_true", help="show rows and their cost in the order of making, no more"
    )


def _experiment(arguments: Arguments) -> int:
    command = import_module("experiments.command")
    if arguments.names == ["list"]:
        _print(command.listed(), arguments.json)
        return 0
    request = command.Request(
        names=arguments.names,
        scale=arguments.scale,
        jobs=arguments.jobs,
        seeds=arguments.seeds,
        executor=arguments.executor,
        text=arguments.text,
        tokenizer_model=arguments.tokenizer_model,
        data=arguments.data,
        out=arguments.out or Path(f"experiments-{arguments.scale}"),
        work=arguments.work,
        compare=arguments.compare,
        time_limit=arguments.time_limit,
        planned_only=arguments.plan,
        only_made=arguments.no_make,
    )
    found = command.run(request, lambda text: print(f"qsim experiment: {text}", file=sys.stderr, flush=True))
    if arguments.plan or arguments.json:
        _print(found, arguments.json)
    else:
        _print_outcomes(found)
        print(f"rows, tables and figures are in {request.out}")
    return 0


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
    elif rows:
        print_columns(rows)


def _print_outcomes(found: list[dict[str, Any]]) -> None:
    for one in found:
        print(f"{one['experiment']} ({one['paper']}): {one['claim']}")
        if one["table"]:
            print_columns(one["table"])
        print(f"{one['outcome'] or 'not finished'}: {one['reason']}")
        if one.get("note"):
            print(one["note"])
        print()
