"""Tables of ``experiments/README.md``: every experiment's claim, what was found and what it costs; what schemes move.

    python -m experiments.readme experiments/results

rewrites what stands between markers.  Claims and commands come from the files of this folder, the rest from
``verdicts.json`` of the folders that are given and of those in them; where an experiment was concluded at several
scales, every one has a line.  The second table is of ``experiments.moved``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import moved
from experiments.catalogue import NAMES, experiments_named
from experiments.outcome import VERDICTS
from experiments.scales import SCALES
from qsim import strict_json
from qsim.atomic import write_atomically

README = Path(__file__).resolve().parent / "README.md"
TABLE, MOVED = "table of experiments", "table of schemes"
COLUMNS = ("experiment", "claim", "of the paper", "scale", "ours, with 95 % intervals", "verdict", "command", "cost")
Record = Mapping[str, Any]


def records(folders: Iterable[Path]) -> dict[str, list[Record]]:
    """Conclusions by experiment, the smallest scale first."""
    found: dict[tuple[str, str], Record] = {}
    for folder in folders:
        for path in sorted(folder.rglob(VERDICTS)):
            for record in strict_json.loads(path.read_text()):
                if record["outcome"] is not None:
                    found[record["experiment"], record["scale"]] = record
    return {name: [found[name, scale] for scale in SCALES if (name, scale) in found] for name in NAMES}


def table(found: Mapping[str, Sequence[Record]]) -> str:
    """Markdown."""
    lines: list[Sequence[str]] = []
    for experiment in experiments_named(NAMES):
        concluded: Sequence[Record | None] = found.get(experiment.name) or [None]
        lines += [_cells(experiment, record) for record in concluded]
    return markdown(COLUMNS, lines)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in (head, ["---"] * len(head), *lines))


def _cells(experiment: Any, record: Record | None) -> list[str]:
    scale = "small" if record is None else record["scale"]
    command = f"`qsim experiment {experiment.name} --scale {scale}`"
    said = ["not run yet", "", f"{len(experiment.at(SCALES[scale]))} variants or parts"]
    if record is not None:
        said = [record["reason"], record["outcome"], f"{_time(record['seconds'])}, {record['seeds']} seed(s)"]
    ours, verdict, cost = said
    name = f"[`{experiment.name}`]({experiment.name}.py)"
    return [name, experiment.claim, experiment.paper, scale, ours, verdict, command, cost]


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _time(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def rewritten(text: str, name: str, table: str) -> str:
    """The text with the table between the markers of its name.  ValueError where they are missing."""
    begin, end = markers(name)
    before, begun, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise ValueError(f"the text has no line {begin if not begun else end!r}; put it where the table goes")
    return f"{before}{begin}\n{table}\n{end}{after}"


def with_tables(text: str, folders: Sequence[Path]) -> str:
    """The text with both tables, of these folders."""
    text = rewritten(text, TABLE, table(records(folders)))
    return rewritten(text, MOVED, markdown(moved.HEAD, moved.lines(folders)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="folders of what qsim experiment wrote")
    parser.add_argument("--readme", type=Path, default=README)
    arguments = parser.parse_args()
    text = with_tables(arguments.readme.read_text(), arguments.results)
    write_atomically(arguments.readme, text.encode())


if __name__ == "__main__":
    main()
