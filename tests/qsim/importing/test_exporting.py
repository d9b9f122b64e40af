"""Runs as GPT-2 checkpoints and back, bit for bit; runs and checkpoints as models; the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import plain_decoders
import pytest
import small_checkpoints
from bits_assertions import assert_same_bits
from command_line import Cli
from refusals import refused
from safetensors.numpy import load_file
from small_checkpoints import CHECKPOINTS, stacked
from small_runs import assert_same_trees, small_config, small_run

from qsim import model
from qsim.checkpoints import CheckpointError, load_checkpoint
from qsim.config import ModelConfig
from qsim.decoder import ResidentWeights, decoder_forward
from qsim.decoder_config import of_model
from qsim.importing import ModelError, export_gpt2, open_model
from qsim.policy import POLICIES
from qsim.runs import RunError, RunFolder
from qsim.sites import Calculator


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Six steps in bf16 with checkpoints at 2, 4 and 6."""
    return small_run(tmp_path_factory.mktemp("runs") / "bf16", "bf16")


def drawn(config: ModelConfig) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    shapes = model.parameter_shapes(config)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("tied", [False, True])
def test_out_and_back_is_bit_for_bit(tmp_path: Path, tied: bool) -> None:
    config = small_config(**{"model.tied": tied, "model.layernorm_epsilon": 1e-6}).model
    parameters = drawn(config)
    parameters["embedding.tokens"][0, :4] = [-0.0, 1e-40, np.inf, np.nan]
    folder = export_gpt2(config, parameters, tmp_path / "gpt2")
    found = open_model(folder)
    assert found.config == of_model(config)
    assert_same_trees(stacked(found), parameters)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("policy", "positions", "scale"),
    [
        ("fp32", "learned", 1.0),
        ("fp32", "sinusoidal", 1.0),
        ("fp32", "sinusoidal", 0.3),
        ("fp16-pure", "learned", 1.0),
    ],
)
def test_logits_are_those_of_the_run(tmp_path: Path, policy: str, positions: str, scale: float) -> None:
    config = small_config(**{"model.positions": positions, "model.position_scale": scale}).model
    parameters = drawn(config)
    found = open_model(export_gpt2(config, parameters, tmp_path / "gpt2"))
    tokens = np.arange(2 * config.length).reshape(2, -1)
    calculator = Calculator(POLICIES[policy], "numpy")
    expected, _ = model.forward(calculator, config, calculator.working_copy(parameters), tokens)
    assert_same_bits(decoder_forward(calculator, found.config, found.weights, tokens), expected)
    resident = ResidentWeights(parameters=parameters)
    assert_same_bits(decoder_forward(calculator, of_model(config), resident, tokens), expected)


def test_the_files_are_those_of_gpt2(tmp_path: Path) -> None:
    """By its definition, with erf GELU."""
    config = small_config().model
    folder = export_gpt2(config, drawn(config), tmp_path / "gpt2")
    written = json.loads((folder / "config.json").read_text())
    assert (written["model_type"], written["activation_function"]) == ("gpt2", "gelu")
    tensors = load_file(folder / "model.safetensors")
    assert tensors["transformer.h.1.attn.c_attn.weight"].shape == (16, 48)
    assert tensors["lm_head.weight"].shape == (256, 16)
    tokens = np.arange(16).reshape(1, 16)
    found = open_model(folder)
    ours = decoder_forward(Calculator(POLICIES["fp64"], "numpy"), found.config, found.weights, tokens)
    true = plain_decoders.logits(written, tensors, tokens)
    assert np.abs(ours - true).max() <= 1e-12 * np.abs(true).max()


def test_what_is_not_exported(tmp_path: Path) -> None:
    config = small_config(**{"model.positions": "alibi"}).model
    with refused(ModelError, "alibi", "learned or sinusoidal"):
        export_gpt2(config, drawn(config), tmp_path / "a")
    config = small_config().model
    wide = {name: w.astype(np.float64) for name, w in drawn(config).items()}
    with refused(ModelError, "float64", "another policy than fp64"):
        export_gpt2(config, wide, tmp_path / "b")
    export_gpt2(config, drawn(config), tmp_path / "c")
    with refused(RunError, str(tmp_path / "c"), "exists already"):
        export_gpt2(config, drawn(config), tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


# Runs as models


def test_a_run_is_its_last_checkpoint(run: RunFolder) -> None:
    last, earlier = open_model(run.path), open_model(run.path / "checkpoints" / "step_2")
    assert (last.architecture, last.source.name, earlier.source.name) == ("qsim", "step_6", "step_2")
    for found, step in ((last, 6), (earlier, 2)):
        state = load_checkpoint(run.path, step).state["parameters"]
        layer = found.layer(1)
        assert layer.keys() | {"embedding.tokens"} <= {n.removeprefix("blocks.") for n in state}
        assert_same_bits(layer["qkv.weight"], state["blocks.qkv.weight"][1])
    assert last.tokenizer.decode(last.tokenizer.encode("as it is")) == "as it is"


@pytest.mark.parametrize("executor", ["numpy", "numba"])
def test_logits_of_a_run_are_those_of_its_model(run: RunFolder, executor: str) -> None:
    found, config = open_model(run.path), run.config.model
    state = load_checkpoint(run.path, 6).state["parameters"]
    tokens = np.arange(2 * config.length).reshape(2, -1)
    calculator = Calculator(run.policy, executor)
    expected, _ = model.forward(calculator, config, calculator.working_copy(state), tokens)
    assert_same_bits(decoder_forward(calculator, found.config, found.weights, tokens), expected)


def test_a_damaged_checkpoint_is_refused_and_stays(tmp_path: Path) -> None:
    damaged = small_run(tmp_path / "run", **{"steps": 2})
    file = damaged.path / "checkpoints" / "step_2" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with refused(CheckpointError, "step_2", "damaged"):
        open_model(damaged.path)
    assert file.is_file()


def test_a_run_without_checkpoints(tmp_path: Path) -> None:
    bare = small_run(tmp_path / "run", **{"steps": 2})
    shutil.rmtree(bare.path / "checkpoints")
    with refused(CheckpointError, str(bare.path), "no checkpoint"):
        open_model(bare.path)


# The command


def test_export_writes_a_folder(cli: Cli, run: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "gpt2"
    assert cli.rows("export", run.path, "--out", out) == {
        "from": str(run.path / "checkpoints" / "step_6"),
        "to": str(out),
    }
    state = load_checkpoint(run.path, 6).state["parameters"]
    assert_same_trees(stacked(open_model(out)), state)
    code, text, _ = cli("export", run.path, "--step", 4, "--out", tmp_path / "other")
    assert (code, text) == (
        0,
        f"wrote {tmp_path / 'other'}, the parameters of {run.path / 'checkpoints' / 'step_4'}\n",
    )
    state = load_checkpoint(run.path, 4).state["parameters"]
    assert_same_trees(stacked(open_model(tmp_path / "other")), state)


def test_export_refuses(cli: Cli, run: RunFolder, tmp_path: Path) -> None:
    folder = small_checkpoints.write(tmp_path / "model", CHECKPOINTS["opt"]())
    assert "is no run of this project but of architecture opt" in cli.refused(
        tmp_path, "export", folder, "--out", tmp_path / "x"
    )
    assert "does not exist" in cli.refused(tmp_path, "export", tmp_path / "none", "--out", tmp_path / "x")
    assert "exists already" in cli.refused(tmp_path, "export", run.path, "--out", folder)
    assert "step_5" in cli.refused(tmp_path, "export", run.path, "--step", 5, "--out", tmp_path / "x")
