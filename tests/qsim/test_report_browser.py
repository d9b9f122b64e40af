"""The page in a real browser: no message on its console, no request of its own, tables that sort."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_folders import attribution, counts, loss_curve, statistics, write_run, write_shadow, write_study

from qsim.report import write_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0"),
)
OF_THE_BROWSER = "not an origin"  # initiator of its own requests, which it makes whatever it shows

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path"),
]


def shown(page: Path, folder: Path, *options: str) -> tuple[str, list[str], list[str]]:
    """The document once its scripts have run, what they said on the console, and what the page requested."""
    log = folder / "net.json"
    command = [str(BROWSER), *QUIET, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", *options]
    done = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, said, requests(log)


def requests(log: Path) -> list[str]:
    text = log.read_text()
    try:
        found = json.loads(text)
    except ValueError:  # the browser ended before it closed the log
        found = json.loads(text.rstrip().rstrip(",") + "]}")
    kind = found["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    events: list[dict[str, Any]] = [event.get("params", {}) for event in found["events"] if event["type"] == kind]
    return [event["url"] for event in events if event.get("initiator") not in (None, OF_THE_BROWSER)]


def everything(folder: Path) -> Path:
    base, replays = write_study(folder, steps=40, layers=2)
    shadow = write_shadow(folder / "shadow", "fp8", [0.01, 0.02, math.nan])
    (folder / "costs.json").write_text(json.dumps(attribution(["qkv", "logits"])))
    return write_report(base, [*replays, shadow], folder / "page.html", attributions=[folder / "costs.json"])


def not_finite(folder: Path) -> Path:
    base = write_run(folder / "a", "fp32", [math.nan] * 5, sites=statistics(1, loses=True))
    replay = write_run(folder / "b", "fp16", [2.0, math.inf, math.nan, 1.0, math.nan], skipped=[2, 3, 5])
    return write_report(base, [replay], folder / "page.html")


def one_step(folder: Path) -> Path:
    run = write_run(folder / "a", "fp16", [5.5], scales=[65536.0], sites=statistics(1, loses=True))
    return write_report(run, [], folder / "page.html")


def interrupted(folder: Path) -> Path:
    run = write_run(folder / "a", "fp32", loss_curve(7), planned=20)
    for name in ("metrics.jsonl", "hashes.jsonl"):
        text = (run / name).read_text()
        (run / name).write_text(text[: text.rindex("{") + 15])
    return write_report(run, [], folder / "page.html")


@pytest.mark.parametrize("make", [everything, not_finite, one_step, interrupted])
@pytest.mark.parametrize("options", [[], ["--window-size=390,800", "--blink-settings=preferredColorScheme=0"]])
def test_silent_and_alone(make: Callable[[Path], Path], options: list[str], tmp_path: Path) -> None:
    document, said, requested = shown(make(tmp_path), tmp_path, *options)
    assert (said, requested) == ([], [])
    assert "<svg" in document
    assert "<button" in document


def test_what_would_be_seen(tmp_path: Path) -> None:
    """The same eyes on a page that does complain and does ask."""
    page = tmp_path / "page.html"
    page.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("wrong")</script>')
    _, said, requested = shown(page, tmp_path)
    assert len(said) == 1
    assert requested == ["http://127.0.0.1:9/x.png"]


def test_the_page_refuses_to_ask(tmp_path: Path) -> None:
    page = one_step(tmp_path)
    page.write_text(page.read_text().replace("</body>", '<img src="http://127.0.0.1:9/x.png"></body>'))
    _, said, requested = shown(page, tmp_path)
    assert requested == []
    assert "Content Security Policy" in said[0]


@pytest.mark.parametrize(
    ("column", "clicks", "order"),
    [
        (3, 1, ["softmax", "qkv", "logits", "values"]),  # the largest share first, the missing one last
        (3, 2, ["logits", "qkv", "softmax", "values"]),
        (1, 1, ["logits", "qkv", "softmax", "values"]),
        (1, 2, ["values", "softmax", "qkv", "logits"]),
        (10, 1, ["logits", "qkv", "softmax", "values"]),  # 1,000 is more than 20
    ],
)
def test_a_click_sorts(column: int, clicks: int, order: list[str], tmp_path: Path) -> None:
    sites = {
        "qkv.dgrad": counts({0: 20}, underflowed=2),
        "logits.dgrad": counts({0: 1000}, underflowed=3),
        "values.dgrad": counts({}, zero=5),
        "softmax.dgrad": counts({0: 9}, underflowed=5),
    }
    run = write_run(tmp_path / "a", "fp16", [1.0], sites=sites)
    page = write_report(run, [], tmp_path / "page.html")
    table = '[aria-label="All sites of fp16"]'
    click = f"document.querySelector('{table} thead th:nth-child({column}) button').click();"
    content = page.read_text().replace("</body>", f"<script>{click * clicks}</script></body>")
    page.write_text(content)
    document, said, _ = shown(page, tmp_path)
    assert said == []
    body = document[document.index("All sites of fp16") :]
    assert re.findall(r'<tr><th scope="row">(\w+)</th>', body)[:4] == order
    assert len(re.findall(r'<th[^>]* aria-sort="(?:a|de)scending"', body)) == 1
