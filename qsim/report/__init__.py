"""One self-contained page about a recorded run and its replays.

json_files, sampled, updates, recorded: run folders read back.  costs: files of ``qsim attribute``, and their bars.
findings, headline, records: what they say, in words and numbers.  sheet, svg, numbers: a figure, inline and as files.
lines, thinning: curves and marks.  curves, distributions, heat, step_heat, loss_scales, depth, quantized: the
pictures, each with its numbers.  sections, page: the page.
"""

from qsim.report.json_files import ReportError
from qsim.report.page import Report, read_report, write_report

__all__ = ["Report", "ReportError", "read_report", "write_report"]
