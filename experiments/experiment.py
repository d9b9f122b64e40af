"""What an experiment is: its claim, its variants, the rule of its verdict, its picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.judging import Verdict
from experiments.quantizing import INT8
from experiments.results import Results
from experiments.scales import Scale
from experiments.variant import Variant

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _table(results: Results) -> list[dict[str, Any]]:
    return results.table((INT8,))


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One file of this folder; its docstring states claim and rule before anything is run.

    paper: the figure, table or section that it answers to.  variants: what is trained, where it depends on the
    scale as a function of it.  judge: the
    verdict of rows.  draw: the picture of rows.  table: lines for reading.  compare: adds models of others to the
    picture, given their paths; None where it has no place for them.
    """

    name: str
    claim: str
    paper: str
    variants: Sequence[Variant] | Callable[[Scale], Sequence[Variant]]
    judge: Callable[[Results], Verdict]
    draw: Callable[[Results], Figure]
    table: Callable[[Results], list[dict[str, Any]]] = _table
    compare: Callable[[Figure, Results, Sequence[Path]], None] | None = None

    def at(self, scale: Scale) -> Sequence[Variant]:
        """Its variants at a scale."""
        return self.variants(scale) if callable(self.variants) else self.variants
