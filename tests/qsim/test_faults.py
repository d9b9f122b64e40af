"""Planted faults: their form, the one value they change, and those that cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Cli
from hypothesis import given
from hypothesis import strategies as st
from small_runs import assert_sentence, hash_rows, small_config, small_flags, small_run, write_text

from precision.backends import get_backend
from precision.formats import parse_format
from qsim.capture import TensorRecorder
from qsim.config import ConfigError
from qsim.fault_elements import elements
from qsim.faults import Fault, check_faults, parse_fault
from qsim.policy import POLICIES
from qsim.position import inputs_of, start
from qsim.replay import replay
from qsim.runs import RunFolder
from qsim.segments import apart
from qsim.site_policy import PASSES, SITES, WHOLE_MODEL_SITES
from qsim.step import Step

CHANGES = {"steps": 3, "record.checkpoint_every": 1, "record.statistics_every": 2}
DTYPES = {"fp16": np.float16, "fp32": np.float32}

faults = st.builds(
    lambda site, layer, **rest: Fault(site=site, layer=None if site in WHOLE_MODEL_SITES else layer, **rest),
    site=st.sampled_from(SITES),
    layer=st.integers(0, 99),
    step=st.integers(0, 10**6),
    direction=st.sampled_from(PASSES),
    element=st.integers(0, 2**40),
    bit=st.none() | st.integers(0, 63),
)


@given(faults)
def test_a_fault_is_read_as_it_is_written(fault: Fault) -> None:
    assert parse_fault(str(fault)) == fault


@given(
    st.sampled_from(["fp16", "fp32"]), st.lists(st.floats(width=16), min_size=1, max_size=9), st.data(),
)  # fmt: skip
def test_one_bit_of_one_value(name: str, values: list[float], data: st.DataObject) -> None:
    """The code by NumPy's own dtype with one bit the other way; NaN comes back canonical; the rest as it was."""
    fmt = parse_format(name)
    x = np.array(values, np.float32)
    index = data.draw(st.integers(0, x.size - 1))
    fault = parse_fault(f"1:logits:fprop:0:{data.draw(st.integers(0, fmt.bits - 1))}")
    found = fault.planted(get_backend("numpy"), x, index, fmt)
    codes = x.astype(DTYPES[name]).view(f"u{fmt.bits // 8}")
    codes[np.isnan(x)] = np.array(np.nan, DTYPES[name]).view(codes.dtype)
    codes[index] ^= codes.dtype.type(1 << (fault.bit or 0))
    expected = codes.view(DTYPES[name]).astype(np.float32)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found[~np.isnan(found)]), np.signbit(expected[~np.isnan(expected)]))


def test_zero_and_too_high_a_bit() -> None:
    x = np.array([3.0, -1.0], np.float32)
    planted = parse_fault("1:logits:fprop:0:zero").planted(get_backend("numpy"), x, 1, parse_format("fp16"))
    assert planted.tolist() == [3.0, 0.0]
    with pytest.raises(ConfigError) as error:
        parse_fault("1:logits:fprop:0:16").planted(get_backend("numpy"), x, 1, parse_format("fp16"))
    assert_sentence(error.value, "bit 16", "fp16", "15")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("3:logits:fprop:1", ["step:site:pass:element:bit"]),
        ("3:logits:fprop:-1:2", ["'3:logits:fprop:-1:2'"]),
        ("3:logit:fprop:1:2", ["logit", "known:"]),
        ("3:logits:forward:1:2", ["forward", "known: fprop"]),
        ("3:mlp_up:fprop:1:2", ["layer.N.mlp_up"]),
        ("3:layer.0.logits:fprop:1:2", ["write logits alone"]),
    ],
)
def test_what_is_no_fault(text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        parse_fault(text)
    assert_sentence(error.value, *parts)


@pytest.mark.parametrize(
    ("text", "devices", "parts"),
    [
        ("7:logits:fprop:1:2", 1, ["step 7", "1 to 6"]),
        ("0:logits:fprop:1:2", 1, ["step 0"]),
        ("1:layer.2.gelu:fprop:1:2", 1, ["layer 2", "the last one is 1"]),
        ("1:logits:fprop:1:2", 2, ["one device"]),
    ],
)
def test_faults_that_a_run_cannot_have(text: str, devices: int, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        check_faults([parse_fault(text)], small_config(), POLICIES["fp16"], devices)
    assert_sentence(error.value, *parts)


def test_faults_of_a_batch_in_parts_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        check_faults(
            [parse_fault("1:logits:fprop:1:2")], small_config(**{"data.accumulation": 2}), POLICIES["fp16"], 1
        )
    assert_sentence(error.value, "data.accumulation 1")


def test_segments_apart() -> None:
    assert apart([(0, 4), (4, 6)], {2}) == [(0, 2), (2, 3), (3, 4), (4, 6)]
    assert apart([(0, 2)], {0, 1}) == [(0, 1), (1, 2)]
    assert apart([(0, 3)], set()) == [(0, 3)]


@pytest.mark.parametrize("executor", ["numpy", pytest.param("jax", marks=pytest.mark.exhaustive)])
def test_the_same_fault_on_every_executor(tmp_path: Path, executor: str) -> None:
    """In a scan of layers, in the forward and in the backward pass, with statistics kept at that step."""
    base = small_run(tmp_path / "base", "fp16", **CHANGES)
    planted = [parse_fault("2:layer.1.values:dgrad:40:14"), parse_fault("2:layer.0.qkv:fprop:1000:9")]
    runs = [replay(base, base.policy, tmp_path / name, executor=name, faults=planted) for name in ("numba", executor)]
    assert hash_rows(runs[0]) == hash_rows(runs[1])
    assert hash_rows(runs[0])[0] == hash_rows(base)[0]
    assert hash_rows(runs[0])[1:] != hash_rows(base)[1:]
    files = [(run.path / "statistics" / "step_000002.json").read_bytes() for run in runs]
    assert files[0] == files[1]


def test_a_run_keeps_its_faults(tmp_path: Path, cli: Cli) -> None:
    """In config.json: resumed, verified and taken for granted with them."""
    text, fault = write_text(tmp_path), "2:layer.1.mlp_up:fprop:5:13"
    flags = small_flags(**CHANGES)
    words = ("--policy", "fp16", "--text", text, "--out", tmp_path / "run", "--inject", fault, *flags)
    assert cli("train", *words)[0] == 0
    run = RunFolder.open(tmp_path / "run")
    assert run.faults == [parse_fault(fault)]
    assert json.loads((run.path / "config.json").read_text())["faults"] == [fault]
    assert cli("verify", run.path)[0] == 0
    clean = replay(run, run.policy, tmp_path / "clean")
    assert hash_rows(clean)[0] == hash_rows(run)[0]
    assert hash_rows(clean)[1] != hash_rows(run)[1]
    message = cli.refused(tmp_path, "train", "--out", run.path, "--resume", "--inject", "1:logits:fprop:0:0")
    assert_sentence(message, "leave out --inject")


def test_how_much_a_site_gives_out() -> None:
    """As the step that is computed gives out."""
    config = small_config()
    found = elements(config, POLICIES["fp16"])
    made: list[TensorRecorder] = []
    step = Step(config, POLICIES["fp16"], "numpy", lambda: made.append(TensorRecorder()) or made[-1])  # type: ignore[func-returns-value]
    position = start(config, POLICIES["fp16"])
    tokens = np.zeros((config.data.batch_size, config.model.length), np.int32)
    given_to = inputs_of(config, POLICIES["fp16"], position, (tokens, tokens))
    _, results = step(position.state, given_to.batch, given_to.scalars, given_to.keys)
    sizes = {key: sum(x.size for x in pairs[1::2]) for key, pairs in results["records"].items()}
    assert {key: size for key, (size, _) in found.items()} == sizes
    assert found["loss.fprop"][1] == 32
    assert found["layer.1.mlp_up.dgrad"][1] == 16


def test_an_element_that_is_not_there(tmp_path: Path, cli: Cli) -> None:
    base = small_run(tmp_path / "base", "fp16", **CHANGES)
    with pytest.raises(ConfigError) as error:
        replay(base, base.policy, tmp_path / "run", faults=[parse_fault("1:logits:fprop:99999:0")])
    assert_sentence(error.value, "99999", "16,384")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError) as error:
        replay(base, base.policy, tmp_path / "run", faults=[parse_fault("1:logits:fprop:0:16")])
    assert_sentence(error.value, "bit 16", "0 to 15")
    assert not (tmp_path / "run").exists()
    assert_sentence(
        cli.refused(tmp_path, "replay", base.path, "--as", "fp16", "--out", tmp_path / "x", "--inject", "x")
    )
