"""``qsim whatif``: what a run's values, or a file's, would lose in every format at every loss scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from qsim import strict_json
from qsim.commands.columns import print_columns
from qsim.commands.command import AddCommand, Arguments
from qsim.config import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from precision import Format
    from qsim.ranges import Source, Window

By = Literal["kind", "site", "place"]
FORMATS = ("fp16", "bf16", "e5m2", "e4m3fn")


def add(command: AddCommand) -> None:
    parser = command(
        "whatif", _whatif, "underflow and overflow in other formats and loss scales, without running again"
    )
    parser.add_argument("source", type=Path, metavar="RUN|FILE", help="a run folder, .safetensors or .npy")
    parser.add_argument(
        "--format", dest="formats", action="append", default=[], metavar="NAME",
        help=f"any of qsim formats, or all; default {', '.join(FORMATS)}",
    )  # fmt: skip
    parser.add_argument("--by", choices=get_args(By), default="kind", help="rows: of kinds, sites or every place")
    parser.add_argument(
        "--sites", default="*", metavar="PATTERN", help="as in 'layer.0.*.dgrad', or of tensors' names"
    )
    parser.add_argument("--step", type=int, help="of a run: that step, not all of which it kept statistics")
    parser.add_argument("--scales", default="-24:40", metavar="LOW:HIGH", help="exponents of two (default -24:40)")


def _whatif(arguments: Arguments) -> int:
    import numpy as np

    from qsim.ranges import read_sources

    formats = _formats(arguments.formats)
    scales = np.arange(*_scales(arguments.scales))
    sources = _grouped(read_sources(arguments.source, step=arguments.step, pattern=arguments.sites), arguments.by)
    if arguments.json:
        print(strict_json.dumps([_as_json(one, fmt, scales) for one in sources for fmt in formats], indent=1))
        return 0
    print_columns([_row(one, fmt, scales) for one in sources for fmt in formats])
    gradients = [source for source in sources if source.scaled]
    for fmt in formats if gradients else ():
        print(_words(fmt, _whole(gradients).window(fmt, scales)))
    return 0


def _formats(names: Sequence[str]) -> list[Format]:
    import precision as pr
    from qsim.ranges import offered

    known = offered()
    if "all" in names:
        return list(known.values())
    found = [pr.parse_format(name) for name in dict.fromkeys(names or FORMATS)]
    for fmt in found:
        if fmt.name not in known:
            raise ConfigError(
                f"losses in {fmt.name} cannot be told from counts per binade; one of {', '.join(known)} can"
            )
    return found


def _scales(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    try:
        bounds = int(low), int(high) + 1
    except ValueError:
        raise ConfigError(f"--scales {text!r} is no LOW:HIGH; write exponents of two, as in -8:24") from None
    if bounds[0] >= bounds[1]:
        raise ConfigError(f"--scales {text!r} is empty; write the lower exponent first")
    return bounds


def _grouped(sources: Sequence[Source], by: By) -> list[Source]:
    """Rows of the table."""
    from qsim.ranges import joined
    from qsim.report.recorded import KINDS, parse_site

    groups: dict[str, list[Source]] = {}
    for source in sources:
        _, site, kind = parse_site(source.name)
        known = kind in KINDS
        name = source.name if by == "place" or not known else KINDS[kind] if by == "kind" else f"{site}.{kind}"
        groups.setdefault(name, []).append(source)
    return [joined(name, found) for name, found in groups.items()]


def _whole(sources: Sequence[Source]) -> Source:
    from qsim.ranges import joined

    return joined("everything that a loss scale multiplies", sources)


def _row(source: Source, fmt: Format, scales: np.ndarray) -> dict[str, Any]:
    """Lost as the values are, without a loss scale; the window in which none would be."""
    import numpy as np

    unscaled = np.array([0])
    window = source.window(fmt, scales) if source.scaled else None
    return {
        "values": source.name,
        "finite": f"{source.finite:,}",
        "format": fmt.name,
        "underflow": f"{int(source.underflowed(fmt, unscaled)[0]):,}",
        "overflow": f"{int(source.overflowed(fmt, unscaled)[0]):,}",
        "lossless scales": None if window is None else _span(window),
        "best": None if window is None else f"2^{window.best}",
        "loses": None if window is None else f"{window.lost:,}",
    }


def _span(window: Window) -> str:
    return "none" if window.low is None else f"2^{window.low} to 2^{window.high}"


def _words(fmt: Format, window: Window) -> str:
    if window.low is not None:
        return f"{fmt.name}: nothing that a loss scale multiplies is lost from 2^{window.low} to 2^{window.high}"
    return f"{fmt.name}: every loss scale loses something, 2^{window.best} the least, {window.lost:,} values"


def _as_json(source: Source, fmt: Format, scales: np.ndarray) -> dict[str, Any]:
    import dataclasses

    window = dataclasses.asdict(source.window(fmt, scales))
    counts = {
        name: {str(k): int(n) for k, n in zip(scales, getattr(source, name)(fmt, scales), strict=True) if n}
        for name in ("underflowed", "overflowed")
    }
    return {"values": source.name, "finite": source.finite, "format": fmt.name, "window": window} | counts
