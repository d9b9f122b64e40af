"""The model against GPT-2 of transformers with the same weights, where installed: logits, loss and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qsim import model
from qsim.config import ModelConfig
from qsim.policy import POLICIES
from qsim.sites import Calculator

torch = pytest.importorskip("torch", reason="the oracle is torch; install torch and transformers to compare with it")
transformers = pytest.importorskip(
    "transformers", reason="the oracle is transformers' GPT-2; install transformers to compare with it"
)

CONFIG = ModelConfig(layers=3, hidden=24, heads=4, length=16, vocabulary=40)
OF_BLOCKS = {
    "layernorm_1": "ln_1",
    "qkv": "attn.c_attn",
    "attention_out": "attn.c_proj",
    "layernorm_2": "ln_2",
    "mlp_up": "mlp.c_fc",
    "mlp_down": "mlp.c_proj",
}


def gpt2(tied: bool) -> Any:
    """GPT-2 with erf GELU, in float64, every weight drawn wide enough to matter."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=CONFIG.vocabulary,
        n_positions=CONFIG.length,
        n_embd=CONFIG.hidden,
        n_layer=CONFIG.layers,
        n_head=CONFIG.heads,
        activation_function="gelu",
        layer_norm_epsilon=CONFIG.layernorm_epsilon,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    net = transformers.GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return net


def by_our_names(values: dict[str, np.ndarray], tied: bool) -> dict[str, np.ndarray]:
    """Weights, or gradients, of GPT-2: blocks stacked, the logits' matrix (h, V)."""
    found = {"embedding.tokens": values["transformer.wte.weight"]}
    found["embedding.positions"] = values["transformer.wpe.weight"]
    if not tied:
        found["logits.weight"] = values["lm_head.weight"].T
    for kind, own in (("weight", "gain"), ("bias", "bias")):
        found[f"layernorm_final.{own}"] = values[f"transformer.ln_f.{kind}"]
        for site, theirs in OF_BLOCKS.items():
            name = f"blocks.{site}.{own if 'layernorm' in site else kind}"
            found[name] = np.stack([values[f"transformer.h.{i}.{theirs}.{kind}"] for i in range(CONFIG.layers)])
    return found


def arrays(net: Any, *, gradients: bool) -> dict[str, np.ndarray]:
    pairs = net.named_parameters(remove_duplicate=False)
    return {name: (w.grad if gradients else w).detach().numpy().copy() for name, w in pairs}


def drawn_tokens() -> np.ndarray:
    return np.random.default_rng(1).integers(0, CONFIG.vocabulary, (4, CONFIG.length + 1))


@pytest.mark.parametrize("tied", [False, True])
def test_logits_loss_and_gradients_are_those_of_gpt2(tied: bool) -> None:
    """In float64: within 1e-12 of the largest logit, and 1e-11 of the largest gradient of each tensor."""
    net, tokens = gpt2(tied), drawn_tokens()
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    config = ModelConfig(**{**vars(CONFIG), "tied": tied})
    parameters = by_our_names(arrays(net, gradients=False), tied)
    assert {name: w.shape for name, w in parameters.items()} == model.parameter_shapes(config)

    expected = net(torch.tensor(inputs)).logits
    loss = torch.nn.functional.cross_entropy(
        expected.reshape(-1, CONFIG.vocabulary), torch.tensor(targets).reshape(-1)
    )
    loss.backward()
    logits, _ = model.forward(Calculator(POLICIES["fp64"], "numpy"), config, parameters, inputs)
    true = expected.detach().numpy().reshape(logits.shape)
    assert np.abs(logits - true).max() <= 1e-12 * np.abs(true).max()

    found, gradients = model.loss_and_gradients(
        Calculator(POLICIES["fp64"], "numpy"), config, parameters, inputs, targets, loss_scale=np.float64(1), chunks=2
    )
    assert abs(found - loss.item()) <= 1e-13 * loss.item()
    for name, true in by_our_names(arrays(net, gradients=True), tied).items():
        assert np.abs(gradients[name] - true).max() <= 1e-11 * np.abs(true).max(), name


@pytest.mark.parametrize("executor", ["numpy", "numba"])
def test_float32_logits_are_near_those_of_gpt2(executor: str) -> None:
    """Within 2^-17 of the largest: some hundred roundings of 2^-24 one after another."""
    net, tokens = gpt2(False), drawn_tokens()[:, :-1]
    parameters = {name: w.astype(np.float32) for name, w in by_our_names(arrays(net, gradients=False), False).items()}
    logits, _ = model.forward(Calculator(POLICIES["fp32"], executor), CONFIG, parameters, tokens)
    assert logits.dtype == np.float32
    true = net(torch.tensor(tokens)).logits.detach().numpy().reshape(logits.shape)
    assert np.abs(logits - true).max() <= 2.0**-17 * np.abs(true).max()
