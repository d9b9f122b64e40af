"""``qsim analyze``: activations, weights and gains of one or several models, side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsim import strict_json
from qsim.commands.columns import print_columns
from qsim.commands.command import AddCommand, Arguments
from qsim.config import ConfigError

if TYPE_CHECKING:
    from qsim.analysis import Analysis
    from qsim.importing import Model

_MASSIVE = 12  # rows on the terminal


def add(command: AddCommand) -> None:
    parser = command("analyze", _analyze, "what quantization meets in a model: error, outliers, norms, ranges")
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="run, checkpoint, folder or .gguf file")
    parser.add_argument("--text", type=Path, nargs="+", default=[], metavar="PATH",
                        help="a run's held-out split otherwise, the embedded text for others")  # fmt: skip
    parser.add_argument("--policy", default="bf16", help="of the forward pass (default bf16); see qsim policy")
    parser.add_argument("--executor", choices=("numpy", "numba"), default="numba")
    parser.add_argument("--scheme", default="int8_vectorwise", help="of X^ and W^; see qsim quantizers")
    parser.add_argument("--tokens", type=int, default=1024, metavar="N", help="at most so many (default 1024)")
    parser.add_argument("--length", type=int, metavar="T", help="of a sequence (default: the model's, at most 512)")
    parser.add_argument("--batch", type=int, metavar="B", help="sequences computed at once")
    parser.add_argument("--threshold", dest="thresholds", type=float, nargs="+", default=[6.0], metavar="X",
                        help="magnitudes from which values are outliers (default 6.0)")  # fmt: skip
    parser.add_argument("--block", type=int, metavar="I", help="whose distributions are drawn (default the middle)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="JSON, CSV, figures and a page go there")


def _analyze(arguments: Arguments) -> int:
    from qsim.analysis.page import as_json, write
    from qsim.importing import open_model

    if arguments.out is not None and arguments.out.exists() and not arguments.out.is_dir():
        raise ConfigError(f"--out {str(arguments.out)!r} is a file; name a folder")
    models = [open_model(path) for path in arguments.models]
    _check_block(arguments.block, models)
    analyses = [_of(model, name, arguments) for model, name in zip(models, _names(arguments.models), strict=True)]
    written = write(analyses, arguments.out, block=arguments.block) if arguments.out is not None else []
    if arguments.json:
        print(strict_json.dumps(as_json(analyses), indent=1))
        return 0
    _print(analyses)
    if written:
        print(f"\nwrote {len(written)} files into {arguments.out}; open {arguments.out / 'analysis.html'}")
    return 0


def _check_block(block: int | None, models: Sequence[Model]) -> None:
    layers = min(model.config.layers for model in models)
    if block is not None and not 0 <= block < layers:
        raise ConfigError(f"--block is {block}; the models have blocks 0 to {layers - 1}")


def _names(paths: Sequence[Path]) -> list[str]:
    """The ends of the paths, as long as it takes to tell them apart; numbered where paths are the same."""
    parts = [path.resolve().parts for path in paths]
    depth = 1
    while depth < max(map(len, parts)) and len({part[-depth:] for part in parts}) < len(set(parts)):
        depth += 1
    names = ["/".join(part[-depth:]) for part in parts]
    return [name if names.count(name) == 1 else f"{name} #{i}" for i, name in enumerate(names, start=1)]


def _of(model: Model, name: str, arguments: argparse.Namespace) -> Analysis:
    from qsim.analysis import analyze, windows

    tokens, words = windows(model, arguments.text, count=arguments.tokens, length=arguments.length)

    def progress(done: int) -> None:
        print(f"{name}: {done} of {len(tokens)} sequences of {tokens.shape[1]} tokens", file=sys.stderr)

    return analyze(
        model,
        tokens,
        policy=arguments.policy,
        executor=arguments.executor,
        scheme=arguments.scheme,
        thresholds=arguments.thresholds,
        batch=arguments.batch,
        name=name,
        text=words,
        progress=progress if sys.stderr.isatty() else None,
    )


def _print(analyses: Sequence[Analysis]) -> None:
    from qsim.analysis import compare
    from qsim.analysis.summaries import by_format, outlier_table, overview

    for one in analyses:
        tokens = one.sequences * one.length
        kind = one.architecture if one.quantization is None else f"{one.architecture} quantized ({one.quantization})"
        print(
            f"{one.model}: {kind}, {one.layers} blocks of {one.hidden}, {one.policy} on {one.executor}, "
            f"X^ by {one.scheme}, {tokens} tokens of {one.text}"
        )
    print_columns([_site_cells(vars(row)) for one in analyses for row in overview(one)], by="model")
    if len(analyses) > 1:
        print("\nmeans over blocks beside the first model, and in how many blocks they exceed it")
        print_columns([_short(vars(row)) for row in compare(analyses)])
    print("\noutlier dimensions, by reading of LLM.int8()'s criterion: positions/layers/comparison/scope")
    print_columns(outlier_table(analyses))
    _print_massive(analyses)
    print("\nlost to each format, over all weights and all activations")
    print_columns([vars(row) for one in analyses for row in by_format(one)], by="model")


def _site_cells(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in _short(row).items() if k != "residual"}


def _short(row: dict[str, Any]) -> dict[str, Any]:
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}


def _print_massive(analyses: Sequence[Analysis]) -> None:
    found = [{"model": one.model} | vars(row) for one in analyses for row in one.massive]
    print(f"\n{len(found)} massive activations: above 100 and 1,000 times the median of their hidden state")
    largest = sorted(found, key=lambda row: -abs(row["value"]))[:_MASSIVE]
    if largest:
        print_columns([_short(row) for row in largest])
