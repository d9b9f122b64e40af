"""Post-training quantization: its figures against a recomputation from the definition of vector-wise INT8."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from small_runs import small_run

from qsim.checkpoints import load_checkpoint
from qsim.data import load_data, validation_batches
from qsim.demo import quantize_run
from qsim.model import LINEAR, forward
from qsim.policy import POLICIES
from qsim.ptq import layer_error, quantization_error
from qsim.recorders import CapturingRecorder
from qsim.runs import RunFolder
from qsim.sites import Calculator
from qsim.training import held_out_loss

FIGURES = {f"{tensor}_{measure}" for tensor in ("input", "weight", "output") for measure in ("rmse", "sqnr_db")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return small_run(tmp_path_factory.mktemp("ptq") / "run")


@pytest.fixture(scope="module")
def error(run: RunFolder) -> dict[str, Any]:
    quantize_run(run)
    return json.loads((run.path / "quantization.json").read_text())


def drawn(*shape: int, seed: int = 0, size: float = 1.0) -> np.ndarray:
    return (size * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def on_a_grid(rows: int, columns: int) -> np.ndarray:
    """Each row: codes from -127 to 127, both ends taken, times a power of two."""
    codes = np.random.default_rng(1).integers(-127, 128, (rows, columns))
    codes[:, 0], codes[:, 1] = 127, -127
    return (codes * 2.0 ** -np.arange(rows)[:, None]).astype(np.float32)


# From the definition


def quantized(x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales, float64: a = max |x|, q = round_half_even(RN32(x RN32(127 / a))), s = RN32(a RN32(1 / 127)).

    The float64 products and quotients of float32 numbers are rounded to float32 in one step, by ``astype``.
    """
    wide = x.astype(np.float64)
    a = np.abs(wide).max(axis=axis, keepdims=True)
    inverse = rounded(127 / a)
    codes = np.rint(rounded(wide * inverse))
    return codes, rounded(a * rounded(np.float64(1) / 127))


def rounded(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.float32).astype(np.float64)


def figures_of(true: np.ndarray, approximate: np.ndarray) -> tuple[float, float]:
    """RMSE; SQNR in dB."""
    difference = (true - approximate).ravel()
    noise = math.fsum(difference**2) / difference.size
    signal = math.fsum(true.ravel() ** 2) / difference.size
    return math.sqrt(noise), 10 * math.log10(signal / noise)


def recomputed(x: np.ndarray, w: np.ndarray) -> dict[str, float]:
    qx, sx = quantized(x, -1)
    qw, sw = quantized(w, -2)
    wide_x, wide_w = x.astype(np.float64), w.astype(np.float64)
    output = rounded(rounded((qx @ qw) * sx) * sw)  # every code product is an integer below 2^53: exact
    pairs = {
        "input": (wide_x, rounded(qx * sx)),
        "weight": (wide_w, rounded(qw * sw)),
        "output": (wide_x @ wide_w, output),
    }
    found = {}
    for name, pair in pairs.items():
        found[f"{name}_rmse"], found[f"{name}_sqnr_db"] = figures_of(*pair)
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rows", "k", "columns"), [(1, 1, 1), (3, 5, 7), (33, 64, 50)])
def test_figures_equal_a_recomputation(rows: int, k: int, columns: int, seed: int) -> None:
    """To 1e-11 of themselves: the sums of squares are float64 here and there, in another order."""
    x, w = drawn(rows, k, seed=seed, size=10.0 ** (seed - 2)), drawn(k, columns, seed=seed + 10)
    found = layer_error(x, w)
    assert found.keys() == FIGURES
    if k > 1:
        assert found == pytest.approx(recomputed(x, w), rel=1e-11)
    else:  # a vector of one value is its own largest: what is left is the rounding of a RN32(1 / 127) 127
        assert found["input_rmse"] <= 2.0**-23 * np.abs(x).max()


# Laws


def test_values_on_the_grid_have_no_error() -> None:
    x, w = on_a_grid(6, 20), on_a_grid(5, 20).T
    found = layer_error(x, w)
    assert [found[f"{name}_rmse"] for name in ("input", "weight", "output")] == [0, 0, 0]
    assert [found[f"{name}_sqnr_db"] for name in ("input", "weight", "output")] == [math.inf] * 3


def test_a_finer_grid_has_a_smaller_error() -> None:
    """A vector's grid is 1 / 127 of its largest value: each halving of an outlier halves the error."""
    base, errors = np.random.default_rng(0).uniform(-1, 1, (64, 256)).astype(np.float32), []
    for outlier in (16.0, 8.0, 4.0, 2.0):
        x = base.copy()
        x[:, 0] = outlier
        errors.append(layer_error(x, drawn(256, 8, seed=1))["input_rmse"])
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[1:], 2, rtol=0.05)


def test_an_outlier_harms_its_own_vector_alone() -> None:
    x, w = np.clip(drawn(8, 64), -1, 1), drawn(64, 8, seed=1)
    x[0, 0] = 100
    whole, rest = layer_error(x, w), layer_error(x[1:], w)
    assert whole["input_rmse"] > 5 * rest["input_rmse"]
    w[3, 0] = 100  # another column of W does not change the error of X
    assert layer_error(x, w)["input_rmse"] == whole["input_rmse"]


@pytest.mark.parametrize("seed", range(3))
def test_error_is_within_the_bound(seed: int) -> None:
    """|x - q s| <= s (1/2 + 2^-15), so the RMSE is too, with the largest scale."""
    x, w = drawn(16, 48, seed=seed), drawn(48, 24, seed=seed + 5)
    found = layer_error(x, w)
    for name, values in (("input", x), ("weight", w)):
        assert 0 < found[f"{name}_rmse"] <= np.abs(values).max() / 127 * (0.5 + 2.0**-15)


def test_powers_of_two_scale_the_error() -> None:
    x, w = drawn(16, 32), drawn(32, 8, seed=1)
    one, other = layer_error(x, w), layer_error(x * np.float32(2.0**-7), w * np.float32(2.0**5))
    factors = {"input": 2.0**-7, "weight": 2.0**5, "output": 2.0**-2}
    for name, factor in factors.items():
        assert other[f"{name}_rmse"] == one[f"{name}_rmse"] * factor
        assert other[f"{name}_sqnr_db"] == pytest.approx(one[f"{name}_sqnr_db"], rel=1e-14)


# A run


def test_every_linear_layer_of_every_block(error: dict[str, Any]) -> None:
    assert set(LINEAR) == {"qkv", "attention_out", "mlp_up", "mlp_down"}
    assert [(row["layer"], row["site"]) for row in error["layers"]] == [(i, site) for i in (0, 1) for site in LINEAR]
    for row in error["layers"]:
        assert row.keys() == FIGURES | {"layer", "site"}
        assert all(math.isfinite(row[name]) for name in FIGURES)
        assert all(row[f"{name}_rmse"] > 0 for name in ("input", "weight", "output"))
        assert all(20 < row[f"{name}_sqnr_db"] < 60 for name in ("input", "weight", "output"))
    assert (error["scheme"], error["policy"], error["tokens"]) == ("int8_vectorwise", "fp16", 4 * 16)


def test_losses_are_those_of_the_model(error: dict[str, Any], run: RunFolder) -> None:
    losses, corpus = error["validation_loss"], load_data(run.path)
    parameters = load_checkpoint(run.path, run.config.steps).state["parameters"]
    policy = POLICIES["fp16"]
    assert losses["before"] == held_out_loss(run.config, policy, "numba", parameters, corpus)
    assert losses["after"] == held_out_loss(run.config, policy.quantized(), "numba", parameters, corpus)
    assert math.isfinite(losses["before"])
    assert losses["before"] != losses["after"]
    assert losses["after"] == pytest.approx(losses["before"], rel=0.01)
    own = list(run.rows("metrics.jsonl"))[-1]["validation_loss"]
    assert losses["before"] == pytest.approx(own, rel=1e-3)


def test_operands_are_those_of_the_forward_pass(error: dict[str, Any], run: RunFolder) -> None:
    """The input of a linear layer is what the operation before it put out, in fp16."""
    config, policy, recorder = run.config, POLICIES["fp16"], CapturingRecorder()
    calculator = Calculator(policy, "numba", recorder)
    parameters = load_checkpoint(run.path, config.steps).state["parameters"]
    tokens, _ = validation_batches(load_data(run.path), batch_size=4, length=16, limit=1)[0]
    working = calculator.working_copy(parameters)
    forward(calculator, config.model, working, tokens)
    outputs = {key: y for key, (_, y) in recorder.results(calculator.backend).items()}
    for row in error["layers"]:
        i, site = row["layer"], row["site"]
        w = parameters[f"blocks.{site}.weight"][i].astype(np.float16).astype(np.float32)
        before = {"qkv": "layernorm_1", "mlp_up": "layernorm_2", "mlp_down": "gelu", "attention_out": "values"}[site]
        x = outputs[f"layer.{i}.{before}.fprop"]
        if site == "attention_out":  # (B, H, T, d) -> (B T, H d)
            x = x.reshape(4, 2, 16, 8).transpose(0, 2, 1, 3)
        expected = recomputed(x.reshape(64, -1), w)
        assert {name: row[name] for name in FIGURES} == pytest.approx(expected, rel=1e-11), (i, site)


def test_error_is_json_of_numbers(error: dict[str, Any], run: RunFolder) -> None:
    parameters = load_checkpoint(run.path, run.config.steps).state["parameters"]
    again = quantization_error(run.config, POLICIES["fp16"], "numba", parameters, load_data(run.path))
    assert json.loads(json.dumps(again, allow_nan=False)) == error


def test_other_executor_gives_the_same_figures(error: dict[str, Any], run: RunFolder) -> None:
    parameters = load_checkpoint(run.path, run.config.steps).state["parameters"]
    assert quantization_error(run.config, POLICIES["fp16"], "numpy", parameters, load_data(run.path)) == error
