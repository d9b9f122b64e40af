"""One self-contained page of all experiments of a folder: claim, verdict, picture, tables, cost, command."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from experiments.catalogue import NAMES
from experiments.judging import NOT_REPRODUCED, REPRODUCED, UNTOLD
from experiments.outcome import VERDICTS
from qsim import strict_json
from qsim.atomic import write_atomically
from qsim.config import ConfigError
from qsim.report.svg import PALETTE, inline

_TEMPLATES = Path(__file__).parents[1] / "qsim" / "templates"
_KINDS = {REPRODUCED: "yes", NOT_REPRODUCED: "no", UNTOLD: "untold", None: "missing"}
_LONG = 12  # rows of a table that is folded
MODELS = ("label", "seed", "steps", "policy", "unigram_entropy", "loss_pre", "loss_int8_vectorwise", "accuracy_pre",
          "skipped_steps", "seconds", "executor")  # fmt: skip


def write_page(folder: Path, out: Path) -> Path:
    """The page of a folder of rows, verdicts and pictures; ``out``: it, or a folder for ``experiments.html``.

    ConfigError where the folder holds no verdicts.
    """
    path = out if out.suffix == ".html" else out / "experiments.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, html(folder).encode("utf-8"))
    return path


def html(folder: Path) -> str:
    """The page as text; it makes no request."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(palette=PALETTE, long=_LONG)
    found = records(folder)
    models = _csv(folder / "rows.csv")
    return environment.get_template("experiments.html").render(
        experiments=found,
        counts=Counter(one["kind"] for one in found),
        scales=sorted({one["scale"] for one in found}),
        minutes=sum(float(row["seconds"]) for row in models) / 60,
        models=[{name: row.get(name, "") for name in MODELS} for row in models],
        data=sorted({row["data_sha256"][:16] for row in models}),
    )


def records(folder: Path) -> list[dict[str, Any]]:
    """What the page says of each experiment, in the order of the catalogue."""
    path = folder / VERDICTS
    if not path.is_file():
        raise ConfigError(f"{str(folder)!r} holds no {VERDICTS}; make it by qsim experiment all --out {folder}")
    kept = {one["experiment"]: one for one in strict_json.loads(path.read_text(encoding="utf-8"))}
    return [_record(kept[name], folder) for name in NAMES if name in kept]


def _record(one: dict[str, Any], folder: Path) -> dict[str, Any]:
    name, drawn = one["experiment"], folder / f"{one['experiment']}.svg"
    picture = None
    if drawn.is_file():
        picture = inline(drawn.read_text(encoding="utf-8"), name, f"{name}: {one['claim']}")
    told = (import_module(f"experiments.{name}").__doc__ or "").strip().split("\n\n")
    extra = {"kind": _KINDS[one["outcome"]], "picture": picture, "told": [" ".join(part.split()) for part in told]}
    command = f"qsim experiment {name} --scale {one['scale']}"
    defaults = {"seeds": None, "seconds": None, "note": None, "tasks": []}
    tables = {key: _table(one.get(key, [])) for key in ("table", "tasks")}
    return defaults | one | extra | {"command": command} | tables


def _table(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Columns, and cells as words; which columns hold numbers."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_words(row.get(name)) for name in columns] for row in rows]
    return {"columns": columns, "rows": cells}


def _words(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _csv(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
