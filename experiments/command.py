"""What ``qsim experiment`` does, given what it was told."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.catalogue import NAMES, experiments_named
from experiments.experiment import Experiment
from experiments.making import Place, make, make_side_by_side
from experiments.outcome import conclude, keep
from experiments.plan import Planned, open_data, plan
from experiments.rows import Store
from experiments.scales import Scale, scale_named
from experiments.standalone import Standalone, concluded, make_parts, planned
from qsim import strict_json
from qsim.atomic import write_atomically
from qsim.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class Request:
    """names: of experiments, or ``all``.  Others as ``qsim experiment --help`` says."""

    names: Sequence[str]
    scale: str = "small"
    jobs: int = 1
    seeds: int | None = None
    executor: str | None = None
    text: Sequence[Path] = ()
    tokenizer_model: Path | None = None
    data: Path | None = None
    out: Path = Path("experiment-rows")
    work: Path | None = None
    compare: Sequence[Path] = ()
    time_limit: float | None = None
    planned_only: bool = False
    only_made: bool = False
    began: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        for name, value in (("--jobs", self.jobs), ("--seeds", self.seeds)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; give at least 1")
        if self.time_limit is not None and self.time_limit <= 0:
            raise ConfigError(f"--time-limit is {self.time_limit:g} seconds; give more than 0")
        if self.out.is_file():
            raise ConfigError(f"--out {str(self.out)!r} is a file; name a folder")
        for path in (*self.text, *self.compare, self.tokenizer_model, self.data):
            if path is not None and not path.exists():
                raise ConfigError(f"{str(path)!r} does not exist; name what does")

    @property
    def deadline(self) -> float | None:
        """Of ``time.time``."""
        return None if self.time_limit is None else self.began + self.time_limit


def listed() -> list[dict[str, Any]]:
    """A line an experiment: what it claims and how many trainings it has at ``small``."""
    small = scale_named("small")
    return [
        {"name": one.name, "paper": one.paper, "variants": len(one.at(small)), "claim": one.claim}
        for one in experiments_named(NAMES)
    ]


def run(request: Request, say: Any) -> list[dict[str, Any]]:
    """Make the rows that are missing and conclude; of ``planned_only`` the plan, a line a row; ``only_made``: none.

    say: is told, in sentences, what it costs before it starts.
    Errors: ConfigError, DataError, RowError; KeyboardInterrupt where a signal ended the work.
    """
    named = experiments_named(request.names)
    experiments = [one for one in named if isinstance(one, Experiment)]
    alone = [one for one in named if isinstance(one, Standalone)]
    scale = scale_named(request.scale).changed(executor=request.executor, seeds=request.seeds)
    out, store = request.out, Store(request.out)
    if request.only_made:
        return _of_what_is_there(experiments, alone, scale, request)
    corpus = open_data(out, scale.config, request.text, request.tokenizer_model, request.data)
    rows = plan(experiments, scale, corpus, store.rows())
    parts = [line for one in alone for line in planned(one, scale, out)]
    if request.planned_only:
        return [*map(_line, rows), *parts]
    say(cost(rows, request.jobs))
    if alone:
        seconds = sum(part["seconds"] for part in parts)
        say(f"{len(parts)} parts of {', '.join(one.name for one in alone)}: about {_time(seconds)}")
    _make(request, scale, [row.training for row in rows if not row.done])
    found = conclude(experiments, scale, corpus.sha256, store.rows(), out, request.compare)
    return found + _alone(alone, scale, request, say)


def _of_what_is_there(
    experiments: Sequence[Experiment], alone: Sequence[Standalone], scale: Scale, request: Request
) -> list[dict[str, Any]]:
    """Conclusions alone; of the data their hash is all that it takes, so that a folder without tokens does."""
    path, store = request.out / "data" / "data.json", Store(request.out)
    if not path.is_file():
        raise ConfigError(f"{str(request.out)!r} holds no data/data.json, so no rows either; leave out --no-make")
    store.write_table()
    sha256 = strict_json.loads(path.read_text(encoding="utf-8"))["sha256"]
    found = conclude(experiments, scale, sha256, store.rows(), request.out, request.compare)
    others = [concluded(one, scale, request.out) for one in alone]
    keep(others, request.out)
    return found + others


def _alone(alone: Sequence[Standalone], scale: Scale, request: Request, say: Any) -> list[dict[str, Any]]:
    found = []
    for one in alone:
        make_parts(one, scale, request.out, request.deadline, say)
        found.append(concluded(one, scale, request.out))
        keep(found, request.out)
    return found


def _make(request: Request, scale: Scale, missing: list[Any]) -> None:
    if not missing:
        return
    work = request.work or request.out / "runs"
    work.mkdir(parents=True, exist_ok=True)
    if request.work is None:
        write_atomically(work / ".gitignore", b"*\n")  # rows are kept, the runs they came of are not
    place = Place(out=request.out, work=work, scale=scale.name, deadline=request.deadline)
    if request.jobs == 1:
        make(missing, place)
    else:
        make_side_by_side(missing, place, min(request.jobs, len(missing)))


def _line(row: Planned) -> dict[str, Any]:
    training = row.training
    line: dict[str, Any] = {"variant": training.label, "seed": training.config.seed, "policy": training.policy.name}
    line |= {"steps": training.config.steps, "done": row.done, "seconds": round(row.seconds, 1)}
    return line | {"wanted by": ", ".join(row.wanted_by), "key": row.key[:12]}


def cost(rows: Iterable[Planned], jobs: int) -> str:
    """In one sentence."""
    rows = list(rows)
    left = [row for row in rows if not row.done]
    seconds = sum(row.seconds for row in left)
    parts = f"{len(rows)} rows, {len(rows) - len(left)} of them done"
    if not left:
        return f"{parts}: nothing to be trained"
    shared = f", about {_time(seconds / min(jobs, len(left)))} by {jobs} jobs" if jobs > 1 else ""
    return f"{parts}: about {_time(seconds)} of training and evaluation{shared}"


def _time(seconds: float) -> str:
    for size, unit in ((86400 * 365, "years"), (86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
