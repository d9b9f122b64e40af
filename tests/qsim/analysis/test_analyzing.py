"""Whole analyses of tiny checkpoints: figures against the activations themselves, batches, comparison, formats."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_checkpoints
from refusals import refused
from small_checkpoints import CHECKPOINTS, HIDDEN, LAYERS, LENGTH

import precision as pr
from precision.backends import get_backend
from precision.quantization.products import factors
from qsim import strict_json
from qsim.analysis import READINGS, Analysis, analyze, compare, tables
from qsim.analysis.page import as_json, write
from qsim.analysis.reconstruction import reconstructed_input
from qsim.analysis.ridges import numbers_of_ridges
from qsim.config import ConfigError
from qsim.decoder import ResidentWeights, decoder_forward
from qsim.importing import Model, open_model
from qsim.policy import parse_policy
from qsim.post_training import PostTraining, calculator_for, quantize_model
from qsim.site_policy import QUANTIZED_SITES
from qsim.sites import Calculator

TOKENS = small_checkpoints.tokens(3)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: open_model(small_checkpoints.write(folder / name, make())) for name, make in CHECKPOINTS.items()}


def activations(model: Model, policy: str) -> dict[tuple[int | None, str], list[np.ndarray]]:
    """Everything that is heard, kept."""
    calculator = Calculator(parse_policy(policy), "numpy")
    kept: dict[tuple[int | None, str], list[np.ndarray]] = {}
    calculator.listener = lambda layer, place, x: kept.setdefault((layer, place), []).append(np.array(x))
    decoder_forward(calculator, model.config, model.weights, TOKENS)
    return kept


def figures(one: Analysis) -> dict[str, object]:
    """Without what says where it comes from; NaN equal to itself."""
    return {k: repr(v) for k, v in dataclasses.asdict(one).items()}


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize("name", list(CHECKPOINTS))
def test_figures_are_those_of_the_activations(models: dict[str, Model], name: str) -> None:
    model = models[name]
    found, kept = analyze(model, TOKENS, policy="bf16", executor="numpy"), activations(model, "bf16")
    assert len(found.inputs) == LAYERS * len(QUANTIZED_SITES)
    for row in found.inputs:
        x = kept[row.layer, f"{row.site}.input"][0].astype(np.float64)
        again = pr.fake_quantize(x.astype(np.float32), "int8_vectorwise", axis=-1).astype(np.float64)
        assert row.tokens == TOKENS.size
        assert row.width == x.shape[1]
        expected = {
            "rmse": np.sqrt(np.mean((again - x) ** 2)),
            "sqnr_db": 10 * np.log10(np.sum(x**2) / np.sum((again - x) ** 2)),
            "token_std": np.mean(x.std(axis=1)),
            "std": x.std(),
            "kurtosis": np.mean((x - x.mean()) ** 4) / x.var() ** 2,
            "token_kurtosis": np.mean([np.mean((r - r.mean()) ** 4) / r.var() ** 2 for r in x]),
            "channel_kurtosis": np.mean([np.mean((c - c.mean()) ** 4) / c.var() ** 2 for c in x.T if c.any()]),
            "infinity_norm": np.abs(x).max(),
        }
        assert {k: getattr(row, k) for k in expected} == pytest.approx(expected, rel=1e-9)
    for output in found.outputs:
        x = kept[output.layer, "block.output"][0].reshape(*TOKENS.shape, HIDDEN)
        assert output.infinity_norm == np.abs(x).max()
        assert output.median == pytest.approx(np.mean([np.median(np.abs(s.astype(np.float64))) for s in x]))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_weights_and_gains_are_those_of_the_model(models: dict[str, Model], name: str) -> None:
    model = models[name]
    found = analyze(model, TOKENS[:1], policy="fp32", executor="numpy")
    tensors = [n for n in model.layer(0) if n.endswith(".weight")]
    assert [row.tensor for row in found.weights if row.layer == 0] == tensors
    for row in found.weights:
        w = model.layer(row.layer)[row.tensor]
        assert row.spectral_norm == pytest.approx(np.linalg.norm(w.astype(np.float64), 2), rel=1e-12)
        assert row.rmse == pytest.approx(
            np.sqrt(np.mean((pr.fake_quantize(w, axis=-2).astype(np.float64) - w.astype(np.float64)) ** 2))
        )
    for gain in found.gains:
        g = (model.weights.outer() if gain.layer is None else model.layer(gain.layer))[f"{gain.norm}.gain"]
        assert gain.std == pytest.approx(np.std(g.astype(np.float64)))
    by_layer = {(row.layer, row.norm): row.std for row in found.gains}
    for row in found.inputs:
        norm = {"qkv": "layernorm_1", "mlp_up": "layernorm_2"}.get(row.site)
        assert row.gain_std == (None if norm is None else by_layer[row.layer, norm])
        assert row.paper == {"qkv": "attn-kqv-proj", "mlp_up": "outer-expander-mlp"}.get(row.site)


@pytest.mark.parametrize("how", [{"scheme": "int8_vectorwise"}, {"scheme": "int8_tensorwise", "static": True}])
def test_a_quantized_model_is_heard_as_it_computes(models: dict[str, Model], how: dict[str, Any]) -> None:
    """Activations of the quantized model, weights that codes stand for, whatever enters the first layer apart."""
    chosen = PostTraining(dequantize_to="bf16", **how)
    model = quantize_model(models["gpt2"], chosen, calibration=TOKENS if chosen.calibrates else None)
    calculator = calculator_for(model, "bf16", "numpy")
    kept: dict[tuple[int | None, str], np.ndarray] = {}
    calculator.listener = lambda layer, place, x: kept.setdefault((layer, place), np.array(x))
    decoder_forward(calculator, model.config, model.weights, TOKENS)
    found, plain = (analyze(one, TOKENS, executor="numpy", batch=1) for one in (model, models["gpt2"]))
    assert (found.quantization, plain.quantization) == (str(chosen), None)
    for row in found.inputs:
        assert row.infinity_norm == np.abs(kept[row.layer, f"{row.site}.input"]).max()
    assert {row.infinity_norm for row in found.inputs[1:]} != {row.infinity_norm for row in plain.inputs[1:]}
    for row in found.weights:
        w = np.asarray(model.layer(row.layer)[row.tensor].dequantize(), np.float64)
        assert row.spectral_norm == pytest.approx(np.linalg.norm(w, 2), rel=1e-12)
    assert not any("limits" in row.place for row in found.ranges)


def test_layers_are_read_once(models: dict[str, Model]) -> None:
    model, read = models["gpt2"], []

    class Counted:
        def outer(self) -> dict[str, Any]:
            read.append(None)
            return model.weights.outer()

        def layer(self, number: int) -> dict[str, Any]:
            read.append(number)
            return model.layer(number)

    analyze(dataclasses.replace(model, weights=Counted()), TOKENS, executor="numpy")
    assert read == [None, *range(LAYERS)]


def test_ridges_hold_every_value_of_every_block(models: dict[str, Model]) -> None:
    found = analyze(models["gpt2"], TOKENS[:1], executor="numpy")
    rows = numbers_of_ridges([found], ["qkv.weight", "layernorm_1.gain"]).rows
    assert [row[2] for row in rows] == 2 * list(range(LAYERS))
    for row in rows:
        size = models["gpt2"].layer(row[2])[row[0]].size
        assert sum(map(int, row[5].split())) == size


def test_batches_and_executors_change_no_figure(models: dict[str, Model]) -> None:
    model = models["llama"]
    whole, *others = (
        analyze(model, TOKENS, executor=executor, batch=batch, thresholds=(0.5, 6.0))
        for executor, batch in (("numpy", None), ("numpy", 1), ("numpy", 2), ("numba", 3))
    )
    for other in others:
        assert figures(dataclasses.replace(other, executor="numpy")) == figures(whole)


def test_schemes_say_what_a_product_multiplies() -> None:
    """Codes, floats of the working format, or both."""
    x = np.random.default_rng(3).standard_normal((5, 8)).astype(np.float32)
    x[2, 3] = 40
    half = pr.round_to(x, "fp16")

    def again(name: str) -> np.ndarray:
        return reconstructed_input(x, pr.parse_scheme(name), "numpy")

    assert (again("int4_columnwise_weight_only") == half).all()
    assert (again("int8_vectorwise") == pr.fake_quantize(x, axis=-1)).all()
    mixed = again("llm_int8")
    assert (mixed[:, 3] == half[:, 3]).all()
    rest = np.delete(x, 3, axis=1)
    assert (np.delete(mixed, 3, axis=1) == pr.fake_quantize(rest, axis=-1)).all()
    assert np.abs(again("mxfp8_e4m3") - x).max() < 0.1 * np.abs(x).max()
    assert factors(get_backend("numpy"), pr.parse_scheme("smoothquant"), x, x.T).floats is not None


@pytest.mark.parametrize("scheme", ["llm_int8", "smoothquant", "bnb_cpu", "torchao", "int4_group8", "mxfp8_e4m3"])
def test_schemes_are_analyzed(models: dict[str, Model], scheme: str) -> None:
    found = analyze(models["gpt2"], TOKENS[:1], executor="numpy", scheme=scheme)
    if scheme == "int4_group8":  # the values of bf16, in fp16: only subnormals are rounded
        assert all(row.rmse < 2.0**-25 for row in found.inputs)
    else:
        assert all(math.isfinite(row.rmse) and row.rmse > 0 for row in found.inputs)
    assert all(row.rmse is not None and row.rmse > 0 for row in found.weights)


def test_planted_massive_activations_and_outliers_are_listed(models: dict[str, Model]) -> None:
    model = models["gpt2"]
    stacked = small_checkpoints.stacked(model)
    stacked["blocks.mlp_down.bias"] = stacked["blocks.mlp_down.bias"].copy()
    stacked["blocks.mlp_down.bias"][1, 5] = 30_000.0
    planted = dataclasses.replace(model, weights=ResidentWeights(parameters=stacked))
    found = analyze(planted, TOKENS, policy="fp32", executor="numpy")
    assert {(row.layer, row.dimension) for row in found.massive} == {(1, 5), (2, 5)}
    assert len(found.massive) == 2 * TOKENS.size
    first = found.massive[0]
    assert (first.sequence, first.position, first.token) == (0, 0, TOKENS[0, 0])
    assert first.ratio > 1000
    assert [row.massive for row in found.outputs] == [0, TOKENS.size, TOKENS.size]
    assert len(found.outliers) == len(READINGS)


def test_values_that_are_not_finite_are_figures_too(models: dict[str, Model]) -> None:
    model = models["gpt2"]
    stacked = small_checkpoints.stacked(model)
    stacked["blocks.layernorm_2.gain"] = np.full_like(stacked["blocks.layernorm_2.gain"], np.inf)
    broken = dataclasses.replace(model, weights=ResidentWeights(parameters=stacked))
    found = analyze(broken, TOKENS[:1], policy="fp32", executor="numpy")
    row = found.inputs_of("mlp_up")[0]
    assert math.isnan(row.rmse)
    assert math.isnan(row.kurtosis)
    strict_json.dumps(as_json([found]))


def test_models_are_compared_block_by_block(models: dict[str, Model]) -> None:
    model = models["gpt2"]
    stacked = small_checkpoints.stacked(model)
    stacked["blocks.qkv.weight"] = stacked["blocks.qkv.weight"] * np.array([4, 4, 0.5], np.float32)[:, None, None]
    other = dataclasses.replace(model, weights=ResidentWeights(parameters=stacked))
    first, second = (
        analyze(one, TOKENS[:1], policy="fp32", executor="numpy", name=name)
        for one, name in ((model, "plain"), (other, "louder"))
    )
    rows = {(row.place, row.metric): row for row in compare([first, second])}
    norm = rows["qkv.weight", "spectral_norm"]
    assert (norm.model, norm.reference, norm.exceeds, norm.layers) == ("louder", "plain", 2, LAYERS)
    norms = [row.spectral_norm for row in first.weights_of("qkv.weight")]
    assert norm.ratio == pytest.approx((4 * norms[0] + 4 * norms[1] + norms[2] / 2) / sum(norms))
    assert rows["layernorm_2.gain", "std"].ratio == 1
    assert rows["layernorm_2.gain", "std"].exceeds == 0


def test_models_of_other_depths_are_compared_by_means(models: dict[str, Model]) -> None:
    model = models["gpt2"]
    stacked = {n: w[:2] if n.startswith("blocks.") else w for n, w in small_checkpoints.stacked(model).items()}
    config = dataclasses.replace(model.config, layers=2)
    shallow = dataclasses.replace(model, config=config, weights=ResidentWeights(parameters=stacked))
    both = [analyze(one, TOKENS[:1], policy="fp32", executor="numpy") for one in (model, shallow)]
    assert {(row.exceeds, row.layers) for row in compare(both)} == {(None, None)}
    assert compare(both[:1]) == compare([]) == []


@pytest.mark.thinned(0.5)
def test_files_hold_everything_and_are_the_same_every_time(models: dict[str, Model], tmp_path: Path) -> None:
    both = [
        analyze(models[name], TOKENS[:1], executor="numpy", name=f"the {name} & co") for name in ("gpt2", "llama")
    ]
    written = [write(both, tmp_path / folder, block=1) for folder in ("a", "b")]
    for one, other in zip(*written, strict=True):
        assert one.read_bytes() == other.read_bytes()
    names = {path.name for path in written[0]}
    for path in (tmp_path / "a").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert names >= {"analysis.json", "analysis.html", "comparison.csv", "figure4.svg", "figure4.png", "block.svg"}
    assert names >= {f"{name}.csv" for name in tables(both)}
    for name in ("figure4.svg", "figure5.svg", "analysis.html"):
        text = (tmp_path / "a" / name).read_text()
        assert all(f"the {one} &amp; co" in text for one in ("gpt2", "llama")), name
    read = strict_json.loads((tmp_path / "a/analysis.json").read_text())
    assert [one["model"] for one in read["models"]] == ["the gpt2 & co", "the llama & co"]
    assert len(read["models"][0]["inputs"]) == LAYERS * len(QUANTIZED_SITES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"executor": "jax"}, ("'jax'", "numpy, numba")),
        ({"policy": "fp64", "executor": "numpy"}, ("fp64", "choose fp32 or bf16")),
        ({"thresholds": (6.0, -1.0)}, ("-1.0", "positive")),
        ({"thresholds": (math.nan,)}, ("nan", "positive")),
        ({"thresholds": ()}, ("no threshold", "positive")),
        ({"batch": 0}, ("batch is 0",)),
    ],
)
def test_what_cannot_be_analyzed_is_refused(models: dict[str, Model], changes: dict, words: tuple[str, ...]) -> None:
    with refused(ConfigError, *words):
        analyze(models["gpt2"], TOKENS[:, :LENGTH], **changes)
