"""A run folder: what was asked, on what it ran, and what came of it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from precision.statistics import Statistics
from qsim import config as configuration
from qsim import policy as policies
from qsim import strict_json
from qsim.atomic import append_line, remove_leftovers, sync_file, write_atomically
from qsim.config import RunConfig
from qsim.executors import hardware_in_words
from qsim.faults import Fault, parse_fault
from qsim.hashing import tree_hash
from qsim.mesh import Mesh
from qsim.policy import Arithmetic
from qsim.position import FirstWeights

_LOGS = ("metrics.jsonl", "hashes.jsonl")
_PACKAGES = ("numpy", "numba", "jax", "jaxlib", "ml_dtypes", "qsim-precision")


class RunError(ValueError):
    """A run folder that cannot be used, in one sentence."""


class RunFolder:
    """Reads and writes one run folder.

    config.json, environment.json, data.json, metrics.jsonl, hashes.jsonl, statistics/, checkpoints/.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls,
        path: Path,
        config: RunConfig,
        policy: Arithmetic,
        executor: str,
        parent: dict[str, Any] | None = None,
        mesh: Mesh | None = None,
        faults: Sequence[Fault] = (),
        mode: str | None = None,
        weights: FirstWeights | None = None,
    ) -> RunFolder:
        """A new run folder; RunError where anything is there already.

        mode: of a replay that is no run of its own, such as ``shadow``.  weights: of a model that it starts from.
        """
        require_new(path)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        values = configuration.as_json(config)
        record = {"preset": values["preset"], "seed": config.seed, "executor": executor, "parent": parent}
        record |= {"policy": policy.as_json(), "policy_sha256": policy.sha256, "config": values}
        record |= {"model": values["model"], "training": _training(config)}
        if not policy.promises_bits:
            record["hashes"] = "none promised"
        if faults:
            record["faults"] = list(map(str, faults))
        if mode is not None:
            record["mode"] = mode
        if weights is not None:
            record["started_from"] = {"model": weights.source, "parameters_sha256": weights.sha256}
        computed = hardware_in_words(policy, executor) | ({"mesh": str(mesh)} if mesh else {})
        run.write_json("environment.json", environment() | computed)
        run.write_json("config.json", record)
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder; RunError where it is none."""
        run = cls(path)
        if not (path / "config.json").is_file():
            raise RunError(f"{str(path)!r} is not a run folder (it has no config.json); name one that train wrote")
        run.record()
        return run

    def record(self) -> dict[str, Any]:
        """config.json."""
        try:
            record = json.loads((self.path / "config.json").read_text())
            record["config"]["seed"], record["policy"]["sites"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"config.json of run {str(self.path)!r} is damaged ({error}); restore it") from None
        return record

    @property
    def config(self) -> RunConfig:
        return configuration.from_json(self.record()["config"])

    @property
    def policy(self) -> Arithmetic:
        return policies.from_json(self.record()["policy"])

    @property
    def executor(self) -> str:
        return self.record()["executor"]

    @property
    def first(self) -> int:
        """The step after which it begins: 0, but for a replay from a later one."""
        return (self.record().get("parent") or {}).get("from", 0)

    @property
    def faults(self) -> list[Fault]:
        """Those planted in it."""
        return list(map(parse_fault, self.record().get("faults", [])))

    def write_json(self, name: str, value: Any) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (strict_json.dumps(value, indent=1) + "\n").encode())

    def append(self, name: str, row: dict[str, Any]) -> None:
        """One line of a .jsonl file."""
        append_line(self.path / name, strict_json.dumps(row))

    def sync(self) -> None:
        """Let the lines written so far reach the disk, before a checkpoint that counts on them."""
        for name in _LOGS:
            if (self.path / name).is_file():
                sync_file(self.path / name)

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        """The lines of a .jsonl file; a last line cut short by a kill is left out, RunError for any other."""
        path = self.path / name
        if not path.is_file():
            return
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                yield strict_json.loads(line)
            except json.JSONDecodeError:
                if number < len(lines):
                    raise RunError(f"line {number} of {str(path)!r} is damaged; restore it or delete it") from None

    def cut_after(self, step: int) -> None:
        """Drop what was written after a step, before going on from its checkpoint; both files are read first.

        Temporary files of a writer that was killed go, too.
        """
        kept = {
            name: [row for row in self.rows(name) if row["step"] <= step and "validation_loss" not in row]
            for name in _LOGS
        }
        for folder in (self.path, self.path / "checkpoints", self.path / "statistics"):
            remove_leftovers(folder)
        for name, rows in kept.items():
            write_atomically(self.path / name, "".join(strict_json.dumps(row) + "\n" for row in rows).encode())

    def hashes(self) -> dict[int, dict[str, Any]]:
        """hashes.jsonl by step."""
        return {row["step"]: row for row in self.rows("hashes.jsonl")}

    def write_statistics(self, step: int, sites: dict[str, Statistics], **more: Any) -> None:
        """Of one step; ``more``: what else was counted of it (``scales``, ``swallowed``, ``what_if``)."""
        values = {key: statistics.as_json() for key, statistics in sorted(sites.items())}
        self.write_json(f"statistics/step_{step:06d}.json", {"step": step, "sites": values} | more)

    @property
    def finished(self) -> bool:
        """Whether the held-out loss, the last thing a run writes, is there."""
        return any("validation_loss" in row for row in self.rows("metrics.jsonl"))


class FollowedRun(RunFolder):
    """A run folder that another process writes: what this one would write is left out.

    Its configuration is what this process was given, for the folder may not be there yet.
    """

    def __init__(self, path: Path, config: RunConfig, policy: Arithmetic, executor: str) -> None:
        super().__init__(path)
        self._given = (config, policy, executor)

    @property
    def config(self) -> RunConfig:
        return self._given[0]

    @property
    def policy(self) -> Arithmetic:
        return self._given[1]

    @property
    def executor(self) -> str:
        return self._given[2]

    @property
    def faults(self) -> list[Fault]:
        return []  # which are of one device

    def write_json(self, name: str, value: Any) -> None:
        pass

    def append(self, name: str, row: dict[str, Any]) -> None:
        pass

    def cut_after(self, step: int) -> None:
        pass


def identity(parent: RunFolder, out: Path, first: dict[str, Any]) -> dict[str, Any]:
    """How a replay in ``out`` names the run it repeats: relative path, hash of its first weights, policy."""
    where = os.path.relpath(parent.path.resolve(), out.resolve())
    return {"path": Path(where).as_posix(), "hash": tree_hash(first), "policy": parent.policy.name}


def require_new(path: Path) -> None:
    """RunError where a file or a folder with something in it stands at the path."""
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise RunError(f"{str(path)!r} exists already and nothing is written over; choose another --out")


def _training(config: RunConfig) -> dict[str, Any]:
    """The figures a reader of the report looks for first."""
    return {
        "steps": config.steps,
        "batch_size": config.data.batch_size,
        "learning_rate": config.optimizer.learning_rate,
        "weight_decay": config.optimizer.weight_decay,
        "clip": config.optimizer.clip,
        "reduction_chunks": config.data.reduction_chunks,
    }


def environment() -> dict[str, Any]:
    """Versions, platform and the commit of the source, as far as they can be told."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "git": _commit(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _commit() -> str | None:
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
