"""What a training step has to hold, counted by hand: bytes by kind, from the sizes of the model and of a batch."""

from __future__ import annotations

from qsim.config import ModelConfig, RunConfig
from qsim.delayed_scaling import first_histories
from qsim.policy import Arithmetic

_CARRIER = 4  # bytes of a float32, in which values of every format are carried


def counted(config: RunConfig, policy: Arithmetic) -> dict[str, int]:
    """Bytes of one device's step by kind; their sum is what it cannot do without at once.

    With P parameters, N rows of a part of the batch (B sequences of T), L layers of width h, H heads, V tokens:
        parameters 4 P.  moments 8 P.  working_copy 4 P, where there is a master beside it.
        gradients 4 P, and of a batch in A parts the A that are still to be added.
        histories: of delayed scaling.
        activations: ``activations`` of every layer; recomputed, the input of every layer and those of one.
        activation_gradients: of one block, what one operation reads and writes: in the MLP the gradients of GELU's
            input and result and of the block's, in attention those of the scores and the weights, of q, k, v and y.
        head: the last LayerNorm with its output, and of the logits their exponentials and their gradient.
    Not counted: copies, such as of the layer that a scan is at, and what stands between an operation's ends.
    """
    model, parts = config.model, config.data.accumulation
    rows, size = config.data.batch_size // parts * model.length, model.parameters
    of_layer = sum(activations(model, config.data.batch_size // parts).values())
    kept = rows * model.hidden * _CARRIER
    return {
        "parameters": _CARRIER * size,
        "moments": 2 * _CARRIER * size,
        "working_copy": _CARRIER * size * policy.has_master,
        "gradients": _CARRIER * size * (1 if parts == 1 else parts + 1),
        "histories": sum(x.nbytes for x in first_histories(policy, model.layers).values()),
        "activations": model.layers * kept + of_layer if model.recompute else model.layers * of_layer,
        "activation_gradients": _CARRIER
        * max(9 * rows * model.hidden, 2 * rows * model.heads * model.length + 4 * rows * model.hidden),
        "head": _CARRIER * (rows * (2 * model.hidden + 1) + 2 * rows * model.vocabulary),
    }


def activations(model: ModelConfig, sequences: int) -> dict[str, int]:
    """Bytes that the backward pass of one block needs of its forward pass, by the site that reads them.

    Every linear layer's input; of LayerNorm the normalised values and 1 / deviation; q, k, v and the weights of
    attention (B, H, T, T); the input of GELU; of dropout one byte an element.
    """
    rows = sequences * model.length
    values = rows * model.hidden
    sizes = {
        "layernorm_1": values + rows,
        "qkv": values,
        "attention": 3 * values + sequences * model.heads * model.length**2,
        "attention_out": values,
        "layernorm_2": values + rows,
        "mlp_up": values,
        "gelu": 4 * values,
        "mlp_down": 4 * values,
    }
    kept = {f"kept.{site}": values for site in ("attention_out", "mlp_down")} if model.dropout else {}
    return {site: _CARRIER * size for site, size in sizes.items()} | kept


def in_words(sizes: dict[str, int]) -> str:
    """``parameters 3.3 MiB, moments 6.7 MiB, ...`` of what is not zero."""
    return ", ".join(f"{kind.replace('_', ' ')} {size / 2**20:.1f} MiB" for kind, size in sizes.items() if size)
