"""The store of finished rows: one JSON line a row, and a table of their figures for reading.

``rows.jsonl`` is what counts; ``rows.csv`` is made of it anew with every row.  Several processes may add rows at
once: each does it under a lock of the file ``.lock``, which the system releases where a process ends.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qsim import strict_json
from qsim.atomic import append_line, sync_file, write_atomically

Row = dict[str, Any]

CSV = "rows.csv"


class RowError(ValueError):
    """A store that cannot be read, in one sentence."""


class Store:
    """Rows of a folder by key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "rows.jsonl"

    def rows(self) -> dict[str, Row]:
        """Finished rows by key, read now.

        A last line cut short by a kill is no row.  RowError for any other line that is none.
        """
        if not self.path.is_file():
            return {}
        lines = self.path.read_text(encoding="utf-8").split("\n")
        found: dict[str, Row] = {}
        for number, line in enumerate(lines, start=1):
            try:
                row = strict_json.loads(line)
                found[row["key"]] = row
            except (json.JSONDecodeError, KeyError, TypeError):
                if line and number < len(lines):
                    raise RowError(f"line {number} of {str(self.path)!r} is no row; restore or delete it") from None
        return found

    def add(self, row: Row) -> None:
        """Append a row, which stays as it is where its key is there already."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._drop_cut_line()
            found = self.rows()
            if row["key"] in found:
                return
            append_line(self.path, strict_json.dumps(row))
            sync_file(self.path)
            write_atomically(self.folder / CSV, table([*found.values(), row]).encode())

    def write_table(self) -> None:
        """The table anew, of the rows that are there."""
        if rows := self.rows():
            with self._locked():
                write_atomically(self.folder / CSV, table([*rows.values()]).encode())

    def _drop_cut_line(self) -> None:
        if not self.path.is_file():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            write_atomically(self.path, whole)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


@contextmanager
def claimed(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone holds the lock file at ``path``, until the end of the block.

    wait: until another process has released it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def table(rows: list[Row]) -> str:
    """CSV of what fits into a cell: mean losses in place of those of every sequence, no metrics of layers."""
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: Row) -> dict[str, Any]:
    config, training = row["config"], row["training"]
    flat = {"label": row["label"], "scale": row["scale"], "policy": row["policy"], "seed": row["seed"]}
    flat |= {"steps": config["steps"], "weight_decay": config["optimizer"]["weight_decay"]}
    flat |= {"clip": config["optimizer"]["clip"], "dropout": config["model"]["dropout"]}
    flat |= {"positions": config["model"]["positions"], "position_scale": config["model"].get("position_scale", 1.0)}
    flat |= {"learning_rate": config["optimizer"]["learning_rate"]}
    flat |= {"unigram_entropy": row["unigram_entropy"], "skipped_steps": training["skipped_steps"]}
    last = row["checkpoints"][str(config["steps"])]
    flat |= {f"loss_{name}": round(sum(losses) / len(losses), 6) for name, losses in last["losses"].items()}
    predicted = config["model"]["length"] * len(last["right"]["pre"])
    flat |= {f"accuracy_{name}": round(sum(right) / predicted, 6) for name, right in last["right"].items()}
    flat |= {"seconds": row["seconds"], "executor": row["executor"], "key": row["key"]}
    flat |= {"policy_sha256": row["policy_sha256"], "data_sha256": row["data_sha256"]}
    return flat | {f"{name}_sha256": value for name, value in row["hashes"].items()}
