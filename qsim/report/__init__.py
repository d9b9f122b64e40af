"""One self-contained page about a recorded run and its replays.

recorded: run folders read back.  findings, headline: what they say, in words and numbers.  sheet: a drawing
surface that becomes inline SVG.  figures, distributions: the pictures.  page: the page.
"""

from qsim.report.page import write_report
from qsim.report.recorded import ReportError

__all__ = ["ReportError", "write_report"]
