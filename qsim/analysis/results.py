"""What an analysis found: frozen rows, and the tables that they are written as."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qsim.analysis.histograms import HistogramRow
from qsim.analysis.massive import Massive
from qsim.analysis.outliers import OutlierRow
from qsim.analysis.ranges import LossRow, RangeRow
from qsim.report.numbers import Numbers

# The paper's names.  It says that the inputs of both are preceded by a LayerNorm, so its outer-expander-mlp is the
# layer that expands h to 4 h, the first of the MLP.
PAPER_NAMES = {"qkv": "attn-kqv-proj", "mlp_up": "outer-expander-mlp"}
NORM_BEFORE = {"qkv": "layernorm_1", "mlp_up": "layernorm_2"}


@dataclass(frozen=True, kw_only=True)
class InputRow:
    """X (N, k), what enters the linear layers of one site of one block, over all tokens.

    rmse, sqnr_db: of X^ under the scheme.  token_std: mean over tokens of the standard deviation within each.
    gain_std: STD(g) of the norm right before, None where none is.  kurtosis: over all values;  token_kurtosis: mean
    over tokens of that within each;  channel_kurtosis: mean over channels of that over tokens; both without those in
    which nothing varies (``qsim.analysis.metrics``).
    """

    layer: int
    site: str
    paper: str | None
    tokens: int
    width: int
    rmse: float
    sqnr_db: float
    token_std: float
    gain_std: float | None
    std: float
    kurtosis: float
    token_kurtosis: float
    channel_kurtosis: float
    infinity_norm: float


@dataclass(frozen=True, kw_only=True)
class WeightRow:
    """A linear layer's weight (h, o), as the model keeps it, in float32.

    residual: of the spectral norm, see ``SpectralNorm``.  rmse, sqnr_db: of W^ under the scheme, None where it leaves
    weights as they are.
    """

    layer: int
    tensor: str
    rows: int
    columns: int
    spectral_norm: float
    residual: float
    std: float
    kurtosis: float
    infinity_norm: float
    rmse: float | None
    sqnr_db: float | None


@dataclass(frozen=True, kw_only=True)
class GainRow:
    """The gain g of a norm; layer None: of the last one.  ones: how many of them are 1.0."""

    layer: int | None
    norm: str
    width: int
    std: float
    mean: float
    smallest: float
    largest: float
    ones: int


@dataclass(frozen=True, kw_only=True)
class OutputRow:
    """What a block gives out.  median: of magnitudes, mean over sequences.  massive: how many values are."""

    layer: int
    infinity_norm: float
    median: float
    massive: int


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Everything measured of one model; ``tables`` gives it as rows.

    quantization: how the model is quantized, in words; None where it is not.  sequences, length: of the tokens read.
    text: where they come from, in words.
    """

    model: str
    source: str
    architecture: str
    quantization: str | None
    policy: str
    executor: str
    scheme: str
    text: str
    sequences: int
    length: int
    layers: int
    hidden: int
    inputs: tuple[InputRow, ...]
    weights: tuple[WeightRow, ...]
    gains: tuple[GainRow, ...]
    outputs: tuple[OutputRow, ...]
    outliers: tuple[OutlierRow, ...]
    massive: tuple[Massive, ...]
    ranges: tuple[RangeRow, ...]
    losses: tuple[LossRow, ...]
    histograms: tuple[HistogramRow, ...]

    def inputs_of(self, site: str) -> list[InputRow]:
        """By block."""
        return [row for row in self.inputs if row.site == site]

    def weights_of(self, tensor: str) -> list[WeightRow]:
        return [row for row in self.weights if row.tensor == tensor]

    def gains_of(self, norm: str) -> list[GainRow]:
        return [row for row in self.gains if row.norm == norm]


TABLES: dict[str, type] = {
    "inputs": InputRow,
    "weights": WeightRow,
    "gains": GainRow,
    "outputs": OutputRow,
    "outliers": OutlierRow,
    "massive": Massive,
    "ranges": RangeRow,
    "losses": LossRow,
    "histograms": HistogramRow,
}


def tables(analyses: Sequence[Analysis]) -> dict[str, Numbers]:
    """Each kind of row as one table over all models; pairs and lists in a cell as ``a:b`` with spaces between."""
    found = {}
    for name, kind in TABLES.items():
        columns = [field.name for field in dataclasses.fields(kind)]
        rows = [
            (one.model, *(_cell(getattr(row, column)) for column in columns))
            for one in analyses
            for row in getattr(one, name)
        ]
        found[name] = Numbers(columns=("model", *columns), rows=rows)
    return found


def _cell(value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    return " ".join(":".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in value)
