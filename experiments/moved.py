"""What each scheme of quantization moves the held-out loss by, over rows of a scale: a table of the README.

Of those whose models learned something, by the bound that verdicts are subject to.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from experiments.quantizing import INT8, SCHEMES
from experiments.results import LEARNED
from experiments.rows import CSV

HEAD = ("scale", "rows", "loss before, times unigram entropy", "scheme", "median change", "largest change", "where")
Line = Sequence[str]


def lines(folders: Iterable[Path]) -> list[Line]:
    """Of each rows.csv, from the folders down; vector-wise INT8 first.  Changes are of losses in nats a token."""
    paths = sorted({path for folder in folders for path in folder.rglob(CSV)})
    return [line for path in paths for line in _of_scale(list(csv.DictReader(path.read_text().splitlines())))]


def _of_scale(rows: Sequence[dict[str, str]]) -> Iterable[Line]:
    shares = [float(row["loss_pre"]) / float(row["unigram_entropy"]) for row in rows]
    learned = [share <= LEARNED for share in shares]  # what did not is told of beside the table
    kept = [row for row, good in zip(rows, learned, strict=True) if good]
    within = [share for share, good in zip(shares, learned, strict=True) if good]
    said = f"{min(within):.2f} to {max(within):.2f}"
    for scheme in (INT8, *(name for name in SCHEMES if name != INT8)):
        change = np.array([float(row[f"loss_{scheme}"]) - float(row["loss_pre"]) for row in kept])
        worst = int(np.abs(change).argmax())
        where = f"{kept[worst]['label']}, seed {kept[worst]['seed']}"
        figures = f"{np.median(change):+.4f}", f"{change[worst]:+.4f}"
        yield rows[0]["scale"], str(len(kept)), said, f"`{scheme}`", *figures, where
