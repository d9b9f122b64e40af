"""Captured operands: what a product is given, and made again under other arithmetic, against float64 and NumPy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Cli
from safetensors.numpy import load_file
from small_runs import assert_sentence, small_run

import precision as pr
from qsim.config import ConfigError
from qsim.model import step_keys
from qsim.operands import Operands, captured, parse_way, remultiplied
from qsim.policy import POLICIES
from qsim.rerun import Rerun
from qsim.runs import RunFolder

CHANGES = {"record.statistics_every": 0, "steps": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return small_run(tmp_path_factory.mktemp("operands") / "base", "fp16-noscale", **CHANGES)


@pytest.fixture(scope="module")
def products(base: RunFolder) -> dict[str, Operands]:
    again = Rerun(base)
    return {one.name: one for one in captured(again, again.at(1))}


def test_every_product_of_a_step(products: dict[str, Operands]) -> None:
    linear = ("qkv", "attention_out", "mlp_up", "mlp_down")
    names = {f"layer.{i}.{site}.{p}" for i in (0, 1) for site in linear for p in ("fprop", "dgrad", "wgrad")}
    twice = {f"layer.{i}.{site}.dgrad{call}" for i in (0, 1) for site in ("scores", "values") for call in ("", ".1")}
    once = {f"layer.{i}.{site}.fprop" for i in (0, 1) for site in ("scores", "values")}
    assert set(products) == names | twice | once | {f"logits.{p}" for p in ("fprop", "dgrad", "wgrad")}


def test_made_again_as_the_run_made_it(base: RunFolder, products: dict[str, Operands]) -> None:
    """The product of a layer's operands is what that layer gave out before its bias."""
    again = Rerun(base)
    tensors = {(one.key, one.part): one for one in again.captured(again.at(1))}
    for layer in (0, 1):
        for name in ("mlp_up.fprop", "qkv.dgrad"):
            one = products[f"layer.{layer}.{name}"]
            y = pr.matmul(one.a, one.b, inputs=pr.FP16, accumulator="fp32_sequential", output=pr.FP16)
            recorded = tensors[f"layer.{layer}.{name}", 0].after
            np.testing.assert_array_equal(y.reshape(recorded.shape), recorded)


@pytest.mark.parametrize("name", ["layer.0.mlp_up.fprop", "layer.1.scores.dgrad.1", "logits.wgrad"])
def test_parts_of_an_error_by_hand(products: dict[str, Operands], name: str) -> None:
    """By NumPy in float64, rounded by its float16; the sum by fp32_sequential."""
    one = products[name]
    found = remultiplied(one, POLICIES["fp16"], "numba")
    a, b = (x.astype(np.float16).astype(np.float64) for x in (one.a, one.b))
    reference, between = one.a.astype(np.float64) @ one.b.astype(np.float64), a @ b
    product = pr.matmul(a.astype(np.float32), b.astype(np.float32), inputs=pr.FP16).astype(np.float64)
    given = product.astype(np.float32).astype(np.float16).astype(np.float64)
    norms = [np.linalg.norm(x - y) / np.linalg.norm(x) for x, y in ((reference, between), (between, product))]
    assert [found.inputs, found.accumulation] == pytest.approx(norms, rel=1e-12, abs=0)
    assert found.output == pytest.approx(np.linalg.norm(product - given) / np.linalg.norm(product), rel=1e-12)
    assert found.error == pytest.approx(np.linalg.norm(reference - given) / np.linalg.norm(reference), rel=1e-12)
    assert (found.underflowed, found.overflowed, found.not_finite) == (0, 0, 0)


def test_operands_that_leave_a_format() -> None:
    """Counted where they are rounded: a value under half of fp16's smallest, one above its largest."""
    a = np.array([[[2.0**-26, 1.0, 70000.0]]], np.float32)
    b = np.ones((1, 3, 1), np.float32)
    one = Operands(layer=0, site="mlp_up", direction="fprop", call=0, a=a, b=b)
    found = remultiplied(one, POLICIES["fp16"], "numpy")
    assert (found.underflowed, found.overflowed, found.not_finite) == (1, 1, 1)


def test_schemes_and_stochastic_rounding(base: RunFolder, products: dict[str, Operands]) -> None:
    """A scheme quantizes both operands; a policy that draws takes the keys of its own step and layer."""
    one = products["layer.0.mlp_up.fprop"]
    found = remultiplied(one, parse_way("int8_vectorwise", base.policy), "numba")
    x, w = one.a[0], one.b[0]
    y = pr.quantized_matmul(x, w, scheme="int8_vectorwise", output=pr.FP16)
    reference = x.astype(np.float64) @ w.astype(np.float64)
    assert found.error == pytest.approx(np.linalg.norm(y - reference) / np.linalg.norm(reference), rel=1e-12)
    assert (found.inputs, found.accumulation) == (None, None)
    policy = POLICIES["int8-train-sr"]
    keys = step_keys(base.config.model, policy, 0, 2)
    drawn = [remultiplied(products[f"layer.{i}.mlp_up.dgrad"], policy, "numba", keys).error for i in (0, 1)]
    assert all(0 < error < 0.1 for error in drawn if error is not None)


def test_the_command(base: RunFolder, tmp_path: Path, cli: Cli) -> None:
    words = (
        "replay",
        base.path,
        "--as",
        "bf16",
        "--as",
        "llm_int8",
        "--mode",
        "operands",
        "--sites",
        "*.mlp_*.fprop",
    )
    rows = cli.rows(*words, "--from", 1, "--out", tmp_path / "o")
    assert len(rows) == 8
    assert {row["policy"] for row in rows} == {"bf16", "llm_int8"}
    assert json.loads((tmp_path / "o" / "step_2.json").read_text()) == rows
    assert len(load_file(tmp_path / "o" / "step_2.safetensors")) == 8
    refused = cli.refused(tmp_path, *words[:-1], "nowhere", "--out", tmp_path / "p")
    assert_sentence(refused, "'nowhere'", "layer.0.qkv.fprop")
    refused = cli.refused(tmp_path, *words, "--out", tmp_path / "p", "--resume")
    assert_sentence(refused, "leave out --resume")


def test_jax_is_refused(base: RunFolder) -> None:
    again = Rerun(base, executor="jax")
    with pytest.raises(ConfigError) as error:
        captured(again, again.at(0))
    assert_sentence(error.value, "jax", "--executor")
