"""Why a model does or does not survive quantization: activations, weights and gains of any ``Model``, measured.

``analyze(model, tokens)`` gives an ``Analysis`` of frozen rows; ``compare`` lays several side by side; ``tables``
gives all of it as CSV.  Figures are of float64, sums in an order that no batch size changes.
"""

from qsim.analysis.analyzing import analyze
from qsim.analysis.comparison import ComparisonRow, compare
from qsim.analysis.outliers import READINGS, Reading
from qsim.analysis.results import Analysis, tables
from qsim.analysis.windows import windows

__all__ = ["READINGS", "Analysis", "ComparisonRow", "Reading", "analyze", "compare", "tables", "windows"]
