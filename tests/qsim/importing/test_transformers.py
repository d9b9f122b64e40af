"""Logits against transformers in float64, where it is installed: the independent reading of every layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small_checkpoints
from small_checkpoints import CHECKPOINTS
from small_runs import small_config

from qsim.decoder import ResidentWeights, decoder_forward
from qsim.decoder_config import of_model
from qsim.importing import export_gpt2, open_model
from qsim.model import initial_parameters
from qsim.policy import POLICIES
from qsim.sites import Calculator

torch = pytest.importorskip("torch", reason="the oracle is torch; install torch and transformers to compare with it")
transformers = pytest.importorskip(
    "transformers", reason="the oracle is transformers; install transformers to compare with it"
)
TOKENS = small_checkpoints.tokens()


def logits_of_transformers(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """(B T, V), float64."""
    net = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    with torch.no_grad():
        found = net.eval()(torch.tensor(tokens.astype(np.int64))).logits.numpy()
    return found.reshape(tokens.size, -1)


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_logits_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    """Within 1e-5 of the largest in float32; in float64 within 1e-6: rotary angles of both are near float32."""
    folder = small_checkpoints.write(tmp_path / "model", CHECKPOINTS[kind]())
    model, true = open_model(folder), logits_of_transformers(folder, TOKENS)
    for policy, bound in (("fp32", 1e-5), ("fp64", 1e-6)):
        found = decoder_forward(Calculator(POLICIES[policy], "numpy"), model.config, model.weights, TOKENS)
        difference = np.abs(found - true).max() / np.abs(true).max()
        print(f"{kind}: {policy} {difference:.1e}")
        assert difference <= bound


@pytest.mark.parametrize("changes", [{}, {"model.tied": True}, {"model.positions": "sinusoidal"}], ids=str)
def test_transformers_reads_what_is_exported(tmp_path: Path, changes: dict) -> None:
    config = small_config(**changes).model
    parameters = {name: w + np.float32(0.01) for name, w in initial_parameters(config, 0).items()}
    folder = export_gpt2(config, parameters, tmp_path / "gpt2")
    tokens = np.arange(2 * config.length).reshape(2, -1)
    true = logits_of_transformers(folder, tokens)
    weights = ResidentWeights(parameters=parameters)
    found = decoder_forward(Calculator(POLICIES["fp64"], "numpy"), of_model(config), weights, tokens)
    assert np.abs(found - true).max() <= 1e-12 * np.abs(true).max()
