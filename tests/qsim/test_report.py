"""The report: true to the files it reads, whole where they are not, and readable by itself."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from run_folders import bell, counts, loss_curve, quantization, statistics, write_run, write_study

from precision.formats import BF16, E4M3FN, E5M2, FP16, FP32
from qsim.report import ReportError, findings, write_report
from qsim.report.headline import headline
from qsim.report.lines import stretches
from qsim.report.recorded import read_run
from qsim.report.sheet import key_places, spread

LOADING = ("src", "href", "xlink:href", "action", "srcset", "data")
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """A page taken apart: tables as text, ids, what it would load; wrongly nested tags fail."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)
        if any(tag in ("td", "th") for tag in self.open):
            self.rows[-1][-1] += data

    def text(self) -> str:
        return _plain(" ".join(self.words))

    def row(self, *start: str) -> list[str]:
        """The first table row whose cells start with these words."""
        rows = [[_plain(cell) for cell in row] for row in self.rows]
        return next(row for row in rows if tuple(row[: len(start)]) == start)


def _plain(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").replace("\u00ad", "").split())


def page_of(base: Path, *replays: Path) -> Page:
    return Page(write_report(base, replays, base / "report.html"))


def headline_of(base: Path, *replays: Path) -> str:
    return _plain(headline(read_run(base), [read_run(replay) for replay in replays]))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    return write_study(tmp_path_factory.mktemp("study"), steps=300, layers=2)


@pytest.fixture(scope="module")
def page(study: tuple[Path, list[Path]]) -> Page:
    return page_of(study[0], *study[1])


# The page as a document.


def test_nothing_leaves_the_page(page: Page) -> None:
    assert page.loads
    assert all(target.startswith(("#", "data:text/csv;")) for target in page.loads)
    assert re.findall(r"<script.*?>", page.source) == ["<script>"]
    assert "link" not in page.tags
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in page.source
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page.source))
    assert not re.search(r"@import|https?://", page.source)


def test_ids_are_unique_and_every_reference_has_its_target(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    targets = {t[1:] for t in [*page.loads, *re.findall(r"url\(([^)]*)\)", page.source)] if t.startswith("#")}
    assert targets <= set(page.ids)


def test_pictures_take_their_colours_and_fonts_from_the_page(page: Page) -> None:
    pictures = re.findall(r"<svg.*?</svg>", page.source, flags=re.S)
    # loss, exponents, INT8, loss scale, and of each of three replays that lost values by layer and by step
    assert len(pictures) == 2 * (4 + 3 * 2)
    for picture in pictures:
        assert not re.search(r"#[0-9a-f]{6}\b|font-family|<metadata|<style", picture)
        assert "currentColor" in picture


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", "fp32", loss_curve(5), sites=statistics(1))
    first = write_report(base, [], tmp_path / "1.html").read_bytes()
    assert write_report(base, [], tmp_path / "2.html").read_bytes() == first


def test_terms_are_explained_once(page: Page) -> None:
    terms = re.findall(r"<dfn>(.*?)</dfn>", page.source)
    assert {t.lower() for t in terms} >= {
        "replay",
        "underflow",
        "subnormal",
        "loss scale",
        "sqnr",
        "rmse",
        "hash",
    }
    assert len(terms) == len(set(terms))


def test_text_of_a_run_cannot_become_markup(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", "<script>$x_1$</script>", loss_curve(3))
    replay = write_run(tmp_path / "b", "fp16 & 日本", loss_curve(3, drift=0.1), differs_from=2)
    page = page_of(base, replay)
    assert page.tags.count("script") == 1
    assert "<script>$x_1$</script>" in page.text()


# The numbers.


def test_summary_repeats_the_files(study: tuple[Path, list[Path]], page: Page) -> None:
    base, replays = study
    final = {folder: read_lines(folder / "metrics.jsonl") for folder in (base, *replays)}
    fp16 = next(folder for folder in replays if folder.name == "fp16")
    last, base_last = (
        row for folder in (fp16, base) for row in final[folder] if row.get("loss") and row["step"] == 300
    )
    sites = json.loads((fp16 / "statistics/step_000300.json").read_text())["sites"].values()
    nonzero = sum(site["count"] - site["zero"] for site in sites)
    under, over = (sum(site[name] for site in sites) for name in ("underflowed", "overflowed"))
    assert page.row("fp16") == [
        "fp16",
        "300",
        f"{last['loss']:.4f}",
        f"{final[fp16][-1]['validation_loss']:.4f}",
        f"{last['loss'] - base_last['loss']:+.4f}",
        f"{100 * under / nonzero:.2g} %",
        str(over),
        "3",
        "step 1",
    ]


def test_summary_of_broken_and_interrupted_runs(page: Page) -> None:
    assert page.row("fp16-pure")[1:5] == ["300", "NaN", "–", "–"]
    assert page.row("int8-fprop")[1:2] == ["150 of 300"]
    assert page.row("int8-fprop")[4].endswith("at step 150")
    assert page.row("int8-fprop")[5:7] == ["–", "–"]


def test_site_tables_repeat_the_files_worst_first(study: tuple[Path, list[Path]], page: Page) -> None:
    folder = next(folder for folder in study[1] if folder.name == "fp16-noscale")
    sites = json.loads((folder / "statistics/step_000300.json").read_text())["sites"]
    record = sites["layer.1.mlp_down.dgrad"]
    nonzero = record["count"] - record["zero"]
    start = page.source.index("Worst sites of fp16-noscale")
    first = re.findall(r"<tr><th scope=\"row\">(.*?)</th>", page.source[start:])[0]
    assert first == "mlp_down 1"
    rows = [[_plain(cell) for cell in row] for row in page.rows]
    assert [
        "mlp_down 1",
        "dgrad",
        f"{100 * record['underflowed'] / nonzero:.1f} %",
        f"{record['underflowed']:,}",
        "0",
        "0",
        f"{100 * record['became_subnormal'] / nonzero:.1f} %",
        "0",
        "0",
        f"{nonzero:,}",
        "fp16",
    ] in rows


def test_worst_first_by_share_not_by_count(tmp_path: Path) -> None:
    sites = {
        "layer.0.qkv.fprop": counts({0: 1_000_000}, underflowed=900),
        "layer.0.mlp_up.dgrad": counts({0: 10}, zero=990, overflowed=5),
        "logits.fprop": counts({0: 100}, underflowed=7),
    }
    run = read_run(write_run(tmp_path / "a", "fp16", [1.0], sites=sites))
    assert [site.site for site in findings.worst_sites(run.sites)] == ["mlp_up", "logits", "qkv"]


def test_quantization_table_repeats_the_file(page: Page) -> None:
    row = quantization(2)["layers"][-1]
    names = [f"{tensor}_{measure}" for tensor in ("input", "weight", "output") for measure in ("sqnr_db", "rmse")]
    wanted = [f"{row[name]:.2f}" if name.endswith("db") else f"{row[name]:.4g}" for name in names]
    assert page.row("mlp_down 1", wanted[0]) == ["mlp_down 1", *wanted]
    assert "Held-out loss 2.3127 before, 2.3261 after: +0.0134" in page.text()


def test_hashes_and_configuration_are_printed_whole(study: tuple[Path, list[Path]], page: Page) -> None:
    for folder in (study[0], *study[1]):
        final = read_lines(folder / "hashes.jsonl")[-1]
        assert final["parameters"] in page.text()
    assert page.row("model.hidden") == ["model.hidden", "64"]
    assert page.row("sources") == ["sources", "a.txt, b.txt"]
    assert page.row("qkv", "dgrad")[:4] == ["qkv", "dgrad", "fp32", "fp32_sequential"]


def test_exponent_shares_are_exact(tmp_path: Path) -> None:
    exponents = {-25: 1, -24: 2, -15: 3, -14: 4, 15: 20, 16: 10, -150: 5, -140: 5}
    run = read_run(write_run(tmp_path / "a", "fp32", [1.0], sites={"layer.0.qkv.wgrad": counts(exponents, zero=9)}))
    fp16, bf16, fp32, *_ = findings.bands()
    found = run.exponents("wgrad")
    assert found == exponents
    assert [band.outside(found) for band in (fp16, bf16, fp32)] == [21, 10, 5]
    assert [band.subnormal(found) for band in (fp16, bf16, fp32)] == [5, 0, 5]
    assert "fp16: 42.0 % outside, 10.0 % subnormal" in page_of(run.folder).text()


def test_bands_are_those_of_the_formats() -> None:
    for band, fmt in zip(findings.bands(), (FP16, BF16, FP32, E5M2, E4M3FN), strict=True):
        assert band.name == fmt.name
        assert 2.0**band.smallest == fmt.min_subnormal
        assert 2.0**band.normal == fmt.min_normal
        assert 2.0**band.largest <= fmt.maximum < 2.0 ** (band.largest + 1)


def test_statistics_are_summed_over_steps(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", "fp16", [3.0, 2.0], sites={"loss.dgrad": counts({-20: 4}, became_subnormal=4)})
    later = {"step": 1, "sites": {"loss.dgrad": counts({-20: 1, -30: 2}, underflowed=2, became_subnormal=1)}}
    (folder / "statistics/step_000001.json").write_text(json.dumps(later))
    run = read_run(folder)
    assert run.sampled == (1, 2)
    assert run.sites[0].counts["nonzero"] == 7
    assert (run.total("underflowed"), run.total("became_subnormal")) == (2, 5)
    assert run.exponents("dgrad") == {-20: 5, -30: 2}


@pytest.mark.parametrize(
    ("part", "whole", "words"),
    [
        (0, 0, "–"),
        (0, 7, "0"),
        (7, 7, "100 %"),
        (99_999, 100_000, "> 99.9 %"),
        (1, 3, "33.3 %"),
        (31, 1000, "3.1 %"),
        (1, 100_000, "0.001 %"),
        (1, 10_000_000, "< 0.0001 %"),
    ],
)
def test_shares(part: int, whole: int, words: str) -> None:
    assert _plain(findings.share(part, whole)) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0"),
        (0.01234, "+0.0123"),
        (-0.5, "−0.5000"),
        (2.5e-6, "+2.5 × 10⁻⁶"),
        (-3e12, "−3.0 × 10¹²"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_signed_numbers(value: float | None, words: str) -> None:
    assert _plain(findings.signed(value)) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "0"), (12.3456, "12.3"), (-0.5, "-0.5"), (2.5e-6, "2.5 × 10⁻⁶"), (math.inf, "infinite"), (None, "–")],
)
def test_short_numbers(value: float | None, words: str) -> None:
    assert _plain(findings.short(value)) == words


# The headline.


def test_headline_of_a_run_alone(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", "fp32", [5.5, 4.0, 2.25])
    assert headline_of(base) == "fp32 took the loss from 5.5000 to 2.2500 in 3 steps."


def test_headline_of_a_difference_and_its_underflow(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", "fp32", [5.0, 2.0])
    sites = {
        "layer.0.qkv.dgrad": counts({-26: 30, 0: 870}, zero=100, underflowed=30),
        "layer.0.qkv.wgrad": counts({0: 100}, underflowed=1),
        "layer.0.qkv.fprop": counts({0: 1000}, underflowed=500),
    }
    bf16 = write_run(tmp_path / "b", "bf16", [5.0, 2.0121], differs_from=1)
    fp16 = write_run(tmp_path / "c", "fp16", [5.0, 1.5], differs_from=1, skipped=[1], sites=sites)
    assert headline_of(base, bf16, fp16) == (
        "bf16 ended at a loss 0.012 above fp32; fp16 ended at a loss 0.5 below fp32 "
        "and lost 3.1 % of its gradient values to underflow and skipped 1 step."
    )


def test_headline_of_equal_runs(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", "fp32", loss_curve(4))
    same = write_run(tmp_path / "b", "fp32", loss_curve(4))
    short = write_run(tmp_path / "c", "tf32", loss_curve(2), planned=4)
    assert headline_of(base, same) == "fp32 is equal to fp32 bit for bit, at every step."
    assert headline_of(base, short).endswith("bit for bit, at all 2 steps compared, and ran to step 2.")


def test_headline_never_says_equal_on_missing_hashes(tmp_path: Path) -> None:
    base, same = (write_run(tmp_path / name, name, loss_curve(3)) for name in ("fp32", "bf16"))
    (same / "hashes.jsonl").unlink()
    assert headline_of(base, same) == "bf16 ended level with fp32."
    assert page_of(base, same).row("bf16")[-1] == "not recorded"


def test_headline_of_a_run_that_breaks(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", "fp32", loss_curve(6))
    broken = write_run(tmp_path / "b", "fp16", [5.0, math.nan, 4.0, 4.0, math.inf, math.nan], differs_from=1)
    assert headline_of(base, broken) == "fp16 had no finite loss from step 5 on."
    assert headline_of(broken, base).startswith("fp16 had no finite loss from step 5 on; fp32 was at")


def test_headline_of_an_interrupted_base(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", "fp32", [5.0, 4.0], planned=9)
    longer = write_run(tmp_path / "b", "bf16", [5.0, math.nan, 3.0], differs_from=2)
    assert headline_of(base, longer) == (
        "fp32 stopped at step 2 of 9 with a loss of 4.0000; bf16 had no finite loss at step 2."
    )


def test_headline_names_the_three_farthest(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", "fp32", [1.0])
    ends = {"p": 1.5, "q": 1.0625, "r": math.nan, "s": 1.25, "t": 1.125}
    replays = [write_run(tmp_path / n, n, [end], differs_from=1) for n, end in ends.items()]
    assert headline_of(base, *replays) == (
        "p ended at a loss 0.5 above fp32; r had no finite loss from step 1 on; "
        "s ended at a loss 0.25 above fp32; 2 other replays are in the table."
    )


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (2.5, "INT8 after training raised the held-out loss of fp32 by 0.25"),
        (2.2, "INT8 after training lowered the held-out loss of fp32 by 0.05"),
        (2.25, "INT8 after training left the held-out loss of fp32 as it was"),
        (math.inf, "INT8 took the held-out loss of fp32 from 2.2500 to infinite"),
    ],
)
def test_headline_of_quantization(tmp_path: Path, after: float, words: str) -> None:
    quantized = {
        "scheme": "int8_vectorwise",
        "layers": [],
        "validation_loss": {"before": 2.25, "after": after},
    }
    base = write_run(tmp_path / "a", "fp32", [3.0, 2.0], quantized=quantized)
    assert headline_of(base).endswith(f"; {words}.")
    assert words.split()[-1] in page_of(base).text()


def test_first_difference_names_the_parts(tmp_path: Path) -> None:
    base, replay = (write_run(tmp_path / name, name, loss_curve(4)) for name in ("fp32", "bf16"))
    rows = read_lines(replay / "hashes.jsonl")
    rows[2]["parameters"] = "0" * 64
    (replay / "hashes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert page_of(base, replay).row("bf16")[-1] == "step 3 (parameters)"


def test_other_data_is_said_aloud(tmp_path: Path) -> None:
    base, replay = (write_run(tmp_path / name, name, loss_curve(3)) for name in ("fp32", "bf16"))
    (replay / "data.json").write_text(json.dumps({"sha256": "0" * 64}))
    assert "not rounding alone" not in page_of(base).text()
    assert "bf16 was run on other data than fp32" in page_of(base, replay).text()


# What a run may lack.


def bare(folder: Path, config: Mapping[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_with_nothing_but_a_config(tmp_path: Path) -> None:
    base = bare(tmp_path / "a", {"policy": {"name": "fp32"}})
    page = page_of(base, bare(tmp_path / "b", {"preset": "tiny"}))
    assert "fp32 has recorded no step yet" in page.text()
    assert "No step has been recorded yet" in page.text()
    assert "recorded no statistics" in page.text()
    assert "No quantization of fp32 was recorded" in page.text()
    assert "svg" not in page.tags


@pytest.mark.parametrize("loss", [2.5, math.nan, math.inf, -math.inf, 0.0, 1e300])
def test_one_step(tmp_path: Path, loss: float) -> None:
    base = write_run(tmp_path / "a", "fp32", [loss])
    replay = write_run(tmp_path / "b", "fp16", [2.5], skipped=[1], scales=[65536.0], differs_from=1)
    page = page_of(base, replay)
    assert page.row("fp32")[1:3] == ["1", findings.loss(loss)]
    assert page.tags.count("svg") == 4


def test_no_finite_loss_at_all(tmp_path: Path) -> None:
    base, replay = (write_run(tmp_path / name, name, [math.nan] * 4) for name in ("fp32", "fp16"))
    assert "fp32 had no finite loss from step 1 on" in page_of(base, replay).text()


def test_losses_over_many_decades(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", "fp32", loss_curve(50))
    burst = write_run(tmp_path / "b", "fp16", [10.0 ** (i - 5) for i in range(50)], differs_from=1)
    assert "× 10⁴⁴" in page_of(base, burst).row("fp16")[4]


def test_last_line_cut_short(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", "fp32", loss_curve(8), planned=20)
    for name in ("metrics.jsonl", "hashes.jsonl"):
        text = (base / name).read_text()
        (base / name).write_text(text[: text.rindex("{") + 15])
    page = page_of(base)
    assert page.row("fp32")[1] == "7 of 20"
    assert "fp32 stopped at step 7 of 20" in page.text()


def test_a_resumed_run_counts_its_last_word(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", "fp32", [3.0, 2.0])
    with (base / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "loss": 1.5}\n{"step": 0, "validation_loss": null}\n')
    run = read_run(base)
    assert run.losses == {1: 3.0, 2: 1.5}
    assert run.held_out == {}


def test_statistics_without_one_nonzero_value(tmp_path: Path) -> None:
    sites = {
        "layer.0.qkv.fprop": counts({}, zero=8),
        "odd": counts({3: 0}),
        "head.weights": {"format": "fp16"},
    }
    page = page_of(write_run(tmp_path / "a", "fp16", loss_curve(3), sites=sites))
    assert "No value underflowed or overflowed at any of 3 sites" in page.text()


def test_values_at_the_ends_of_float32(tmp_path: Path) -> None:
    sites = {"loss.dgrad": counts({-149: 5, 127: 5}, underflowed=5, overflowed=5)}
    page = page_of(write_run(tmp_path / "a", "fp16", loss_curve(3), sites=sites))
    assert "fp16: 100 % outside" in page.text()
    assert page.row("loss", "dgrad")[2:6] == ["50.0 %", "5", "50.0 %", "5"]


def test_quantization_with_holes(tmp_path: Path) -> None:
    layers = [
        {"layer": 0, "site": "qkv", "input_rmse": 0.0, "input_sqnr_db": math.inf, "weight_rmse": math.nan},
        {"layer": 1, "site": "qkv", "input_rmse": None},
    ]
    page = page_of(write_run(tmp_path / "a", "bf16", loss_curve(3), quantized={"layers": layers}))
    assert page.row("qkv 0") == ["qkv 0", "inf", "0", "–", "nan", "–", "–"]
    assert "Its effect on the held-out loss was not measured" in page.text()


def test_many_layers_and_many_replays(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", "fp32", loss_curve(20))
    sites = {f"layer.{i}.qkv.dgrad": counts(bell(-20, 3, 1000), underflowed=i) for i in range(48)}
    replays = [
        write_run(tmp_path / f"r{i}", f"policy-{i}", loss_curve(20, drift=i / 9), sites=sites if i == 0 else None)
        for i in range(7)
    ]
    page = page_of(base, *replays)
    assert all(page.row(f"policy-{i}") for i in range(7))
    assert "47 of 48 sites lost values" in page.text()


def test_runs_of_one_policy_are_told_apart(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", "fp32", loss_curve(3))
    replays = [write_run(tmp_path / folder, "fp32", loss_curve(3)) for folder in ("b", "x/b")]
    page = page_of(base, *replays)
    assert page.row("fp32 (a)")
    assert page.row("fp32 (b)")[-1] == page.row("fp32 (b) #2")[-1] == "equal at every step"


# Errors and the way the page is written.


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_no_run_folder(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", "fp32", [1.0])
    for folders in ((tmp_path / "none", []), (base, [tmp_path / "none"])):
        with pytest.raises(ReportError, match=r"none has no config\.json, .*; name the folder"):
            write_report(*folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["config.json", "data.json", "quantization.json", "statistics/step_000001.json"])
@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_damaged_files_are_named(tmp_path: Path, name: str, text: str) -> None:
    base = write_run(tmp_path / "a", "fp32", [1.0], sites={}, quantized={})
    (base / name).write_text(text)
    with pytest.raises(ReportError, match=rf"{re.escape(name)} .*; restore it or record the run again"):
        write_report(base, [], tmp_path / "out")


@pytest.mark.parametrize("line", ['{"step": 1, "lo', "[1]", '{"loss": 1.0}'])
def test_a_damaged_line_inside_a_log_is_named(tmp_path: Path, line: str) -> None:
    base = write_run(tmp_path / "a", "fp32", [1.0])
    (base / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(ReportError, match=r"line 2 of .*metrics\.jsonl"):
        write_report(base, [], tmp_path / "out")


def test_the_page_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_run(tmp_path / "a", "fp32", loss_curve(3))
    path = write_report(base, [], tmp_path / "reports")
    assert path == tmp_path / "reports/report.html"
    old = path.read_bytes()

    def crash(*_: object) -> None:
        raise OSError("power cut")

    (base / "config.json").write_text('{"policy": {"name": "other"}}')
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(OSError, match="power cut"):
            write_report(base, [], path)
    assert path.read_bytes() == old
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_run_folders_are_only_read(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", "fp32", loss_curve(3), sites=statistics(1))
    before = {path: path.stat().st_mtime_ns for path in base.rglob("*")}
    write_report(base, [], tmp_path / "out.html")
    assert {path: path.stat().st_mtime_ns for path in base.rglob("*")} == before


def test_import_draws_nothing_in() -> None:
    code = "import sys, qsim.report; print(*{'matplotlib', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_global_state_of_matplotlib_stays(tmp_path: Path) -> None:
    import matplotlib

    def settings() -> dict[str, Any]:  # reading "backend" would itself import pyplot
        return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}

    before = settings()
    write_report(write_run(tmp_path / "a", "fp32", loss_curve(3)), [], tmp_path / "out.html")
    assert settings() == before
    assert "matplotlib.pyplot" not in sys.modules


# Small parts.


def test_labels_move_apart_and_keep_their_order() -> None:
    placed = spread([50, 51, 10, 99, 98], gap=15, low=0, high=100)
    assert sorted(range(5), key=placed.__getitem__) == [2, 0, 1, 4, 3]
    ordered = sorted(placed)
    assert all(b - a >= 15 for a, b in pairwise(ordered))
    assert 0 <= ordered[0] <= ordered[-1] <= 100
    assert spread([], gap=15, low=0, high=1) == []


def test_a_key_wraps_to_its_room() -> None:
    places = key_places(["fp16-noscale"] * 9, 340)
    assert [row for _, row in places] == sorted(row for _, row in places)
    assert max(left for left, _ in places) < 340
    assert places[-1][1] > 0


def test_stretches_join_neighbours_among_recorded_steps() -> None:
    assert stretches([], [1, 2]) == []
    assert stretches([1, 2, 5], [1, 2, 3, 5]) == [(1, 2), (5, 5)]
    assert stretches([10, 20, 40], [0, 10, 20, 30, 40]) == [(10, 20), (40, 40)]
