"""Strict JSON: every float comes back, the text is JSON to a strict reader, older files are read alike."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import loss_curve, write_run

from qsim import strict_json
from qsim.report.recorded import read_run
from qsim.runs import RunFolder

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet="ab-"),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def _strict(text: str) -> Any:
    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and a == b


@given(value=VALUES)
def test_values_come_back_from_strict_json(value: Any) -> None:
    text = strict_json.dumps(value)
    _strict(text)
    assert _same(strict_json.loads(text), value)


@pytest.mark.parametrize(("value", "text"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")])
def test_the_three_texts(value: float, text: str) -> None:
    assert strict_json.dumps({"loss": [value]}) == f'{{"loss": ["{text}"]}}'
    assert _same(strict_json.loads(f'{{"loss": ["{text}"]}}'), {"loss": [value]})
    assert _same(strict_json.loads(f'{{"loss": [{text}]}}'), {"loss": [value]})  # as older files have it


def test_finite_rows_are_written_as_before() -> None:
    row = {"step": 3, "loss": 5.25, "skipped": False, "name": "fp16", "none": None}
    assert strict_json.dumps(row) == json.dumps(row)


def test_runs_of_either_kind_are_read_alike(tmp_path: Path) -> None:
    losses = [*loss_curve(2), math.nan, math.inf]
    old, new = (write_run(tmp_path / name, "fp16", losses) for name in ("old", "new"))
    assert "NaN," in (old / "metrics.jsonl").read_text()
    RunFolder(new).cut_after(4)  # rewrites the rows
    for line in (new / "metrics.jsonl").read_text().splitlines():
        _strict(line)
    for run in (read_run(old), read_run(new)):
        assert run.not_finite == [3, 4]
        assert math.isnan(run.losses[3])
        assert run.losses[4] == math.inf
