"""The demo end to end: train, replay under three formats, quantize, one page that says what the files say."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from small_runs import assert_sentence, contents, hash_rows, small_flags, write_text

from qsim.cli import main
from qsim.demo import REPLAYS
from qsim.report import findings
from qsim.runs import RunFolder

POLICIES = ("fp32", *REPLAYS)


class Tables(HTMLParser):
    """Tables of a page by the label of the region they stand in, cells as text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.regions: dict[str, list[list[str]]] = {}
        self.text: list[str] = []
        self._rows: list[list[str]] = []
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        label = dict(attrs).get("aria-label")
        if tag == "div" and label:
            self._rows = self.regions.setdefault(label, [])
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False
        if tag == "table":
            self._rows = []

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._in_cell:
            self._rows[-1][-1] += data


def run_demo(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as end:
        main(["demo", *map(str, arguments)])
    return end.value.code


@pytest.fixture(scope="module")
def demo_and_printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder, printed = tmp_path_factory.mktemp("demo"), io.StringIO()
    with redirect_stdout(printed):
        code = run_demo("--text", write_text(folder), "--out", folder / "demo", *small_flags(steps=4))
    assert code == 0
    return folder / "demo", printed.getvalue()


@pytest.fixture(scope="module")
def demo(demo_and_printed: tuple[Path, str]) -> Path:
    return demo_and_printed[0]


@pytest.fixture(scope="module")
def printed(demo_and_printed: tuple[Path, str]) -> str:
    return demo_and_printed[1]


@pytest.fixture(scope="module")
def page(demo: Path) -> Tables:
    return Tables((demo / "report.html").read_text(encoding="utf-8"))


def folder_of(demo: Path, policy: str) -> Path:
    return demo / "fp32" if policy == "fp32" else demo / "replays" / policy


def sites_of(demo: Path, policy: str) -> dict[str, dict[str, int]]:
    """Counters by site, summed over the sampled steps: read from the files, not from the report's own reader."""
    total: dict[str, dict[str, int]] = {}
    for path in sorted((folder_of(demo, policy) / "statistics").glob("*.json")):
        for name, record in json.loads(path.read_text())["sites"].items():
            site = total.setdefault(name, {})
            for counter in ("count", "zero", "underflowed", "overflowed"):
                site[counter] = site.get(counter, 0) + record[counter]
    return total


def sum_of(demo: Path, policy: str, counter: str) -> int:
    return sum(site[counter] for site in sites_of(demo, policy).values())


def test_run_folders_are_there(demo: Path) -> None:
    assert REPLAYS == ("bf16", "fp16-noscale", "fp16")
    assert {path.name for path in demo.iterdir()} == {"fp32", "replays", "report.html"}
    assert {path.name for path in (demo / "replays").iterdir()} == set(REPLAYS)
    for policy in POLICIES:
        run = RunFolder.open(folder_of(demo, policy))
        assert run.finished
        assert run.policy.name == policy
        assert run.config.steps == 4
        assert len(hash_rows(run)) == 4
        assert [path.name for path in sorted((run.path / "statistics").iterdir())] == [
            f"step_{step:06d}.json" for step in (1, 3, 4)
        ]
    parents = [json.loads((folder_of(demo, p) / "config.json").read_text())["parent"] for p in REPLAYS]
    assert {parent["path"] for parent in parents} == {"../../fp32"}
    assert (demo / "fp32" / "quantization.json").is_file()


def test_page_names_every_policy(page: Tables) -> None:
    _, *rows = page.regions["The runs side by side"]
    assert [row[0] for row in rows] == list(POLICIES)
    assert [row[1] for row in rows] == ["4"] * 4
    text = "".join(page.text)
    assert all(policy in text for policy in POLICIES)


def test_page_says_the_losses_of_the_metrics(demo: Path, page: Tables) -> None:
    _, *rows = page.regions["The runs side by side"]
    for policy, row in zip(POLICIES, rows, strict=True):
        *_, last, held_out = RunFolder.open(folder_of(demo, policy)).rows("metrics.jsonl")
        assert row[2:4] == [f"{last['loss']:.4f}", f"{held_out['validation_loss']:.4f}"]


def test_underflow_of_the_page_is_that_of_the_statistics(demo: Path, page: Tables) -> None:
    _, *rows = page.regions["The runs side by side"]
    lost = {policy: sum_of(demo, policy, "underflowed") for policy in POLICIES}
    assert lost["fp16-noscale"] > lost["fp16"] > 0
    assert lost["fp32"] == lost["bf16"] == 0
    for policy, row in zip(POLICIES, rows, strict=True):
        nonzero = sum_of(demo, policy, "count") - sum_of(demo, policy, "zero")
        assert row[5] == findings.share(lost[policy], nonzero)
        assert row[6] == f"{sum_of(demo, policy, 'overflowed'):,}"


@pytest.mark.parametrize("policy", ["fp16-noscale", "fp16"])
def test_underflow_of_every_site_is_that_of_the_statistics(demo: Path, page: Tables, policy: str) -> None:
    head, *rows = page.regions[f"All sites of {policy}"]
    assert [head[2].replace("\u00ad", ""), head[9]] == ["Underflowed", "Of nonzero values"]
    found = {(row[0], row[1]): (row[3], row[5], row[9], row[10]) for row in rows}
    assert len(found) == len(rows)
    expected = {}
    for name, site in sites_of(demo, policy).items():
        *where, kind = name.removeprefix("layer.").split(".")
        place = f"{where[1]} {where[0]}" if len(where) == 2 else where[0]
        nonzero = site["count"] - site["zero"]
        storage = "fp32" if name == "loss.fprop" else "fp16"
        expected[place, kind] = (f"{site['underflowed']:,}", f"{site['overflowed']:,}", f"{nonzero:,}", storage)
    assert found == expected


def test_quantization_of_the_page_is_that_of_the_file(demo: Path, page: Tables) -> None:
    record = json.loads((demo / "fp32" / "quantization.json").read_text())
    _, *rows = page.regions["INT8 error by layer and site"]
    assert [row[0] for row in rows] == [f"{row['site']} {row['layer']}" for row in record["layers"]]
    for row, layer in zip(rows, record["layers"], strict=True):
        assert row[5:7] == [f"{layer['output_sqnr_db']:.2f}", f"{layer['output_rmse']:.4g}"]
    text = "".join(page.text)
    for when in ("before", "after"):
        assert f"{record['validation_loss'][when]:.4f} {when}" in text


def test_hashes_of_the_page_are_those_of_the_runs(demo: Path, page: Tables) -> None:
    _, *rows = page.regions["Hashes of every run"]
    for policy, row in zip(POLICIES, rows, strict=True):
        assert row[0] == policy
        assert row[4] == hash_rows(folder_of(demo, policy))[-1]["parameters"]


def test_printed_table(printed: str, demo: Path) -> None:
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == list(POLICIES)
    assert str(demo / "report.html") in lines[-1]
    assert any("INT8 vector-wise" in line for line in lines)


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run_demo("--text", write_text(tmp_path), "--out", tmp_path / "demo", "--json", *small_flags(steps=2))
    out, err = capsys.readouterr()
    assert code == 0
    assert [line.split(":")[0] for line in err.splitlines()] == [policy for policy in POLICIES for _ in range(2)]
    result = json.loads(out)
    assert [row["policy"] for row in result["runs"]] == list(POLICIES)
    assert result["report"] == str(tmp_path / "demo" / "report.html")
    for row in result["runs"]:
        policy = row["policy"]
        assert row["parameters_sha256"] == hash_rows(folder_of(tmp_path / "demo", policy))[-1]["parameters"]
        found = sites_of(tmp_path / "demo", policy).items()
        gradients = [site for name, site in found if name.endswith(("dgrad", "wgrad"))]
        assert row["gradients_underflowed"] == sum(site["underflowed"] for site in gradients)
        assert row["gradients_nonzero"] == sum(site["count"] - site["zero"] for site in gradients)


def test_folder_in_use_is_refused(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(demo)
    code = run_demo("--out", demo, *small_flags())
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert_sentence(err.strip(), repr(str(demo)), "choose another --out")
    assert contents(demo) == before
