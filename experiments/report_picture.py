"""The picture of the README: the head of a report, photographed by a headless Chromium.

    python -m experiments.report_picture demo/report.html experiments/figures/report.png

Needs a ``chromium`` on the path.  The page is 1,060 pixels wide and cut after the exponents of the values.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

WIDTH, HEIGHT = 1060, 2190
_QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


def photograph(report: Path, picture: Path) -> None:
    """A PNG of the first ``HEIGHT`` pixels of a report."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise SystemExit("report_picture: no chromium on the path; install one")
    with tempfile.TemporaryDirectory() as profile:
        options = [f"--user-data-dir={profile}", f"--screenshot={picture.resolve()}", "--hide-scrollbars"]
        window = f"--window-size={WIDTH},{HEIGHT}"
        page = report.resolve().as_uri()
        subprocess.run([browser, *_QUIET, *options, window, page], check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    photograph(arguments.report, arguments.picture)


if __name__ == "__main__":
    main()
