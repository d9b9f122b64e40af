"""What a training step has to hold, counted by hand: bytes by kind, from the sizes of the model and of a batch."""

from __future__ import annotations

import math

from precision.formats import parse_format
from qsim.config import ModelConfig, RunConfig
from qsim.delayed_scaling import first_histories
from qsim.mesh import Mesh
from qsim.model import parameter_shapes
from qsim.policy import Arithmetic
from qsim.sharding import Shards

GIB = 1 << 30
_CARRIER = 4  # bytes of a float32, in which values of every format are carried


def counted(
    config: RunConfig, policy: Arithmetic, *, mesh: Mesh | None = None, hardware: bool = False
) -> dict[str, int]:
    """Bytes of a step on one device of a mesh, by kind; their sum is what it cannot do without at once.

    With P the parameters that a device keeps, all of them where there is one device, else rows by ``data`` and
    columns by ``model`` of every matrix; N rows of its part of the batch (B sequences of T), A parts; L layers of
    width h, H heads of which a device has H / M, V tokens; w = 4 bytes of a value, 2 in ``hardware`` arithmetic of a
    16-bit policy:
        parameters 4 P.  moments 8 P.  working_copy w P, where there is a master beside it.
        gradients 4 P, and of a batch in A parts the A that are still to be added.
        largest_matrix: of the one that has most values, its gradient by chunks of this part, 4 of each, before they
            are added; over ``data`` also its gathered rows, w of each, and the gradient once it is exchanged.
        histories: of delayed scaling.
        activations: ``activations`` of every layer; recomputed, the input of every layer, 4 N h, and those of one.
        activation_gradients: of one block, what one operation reads and writes: in the MLP the gradients of GELU's
            input and result and of the block's, in attention those of the scores and the weights, of q, k, v and y.
        head: the last LayerNorm with its output, and of the logits their exponentials and their gradient.
    Not counted: copies, such as of the layer that a scan is at, and what stands between an operation's ends.
    """
    mesh = mesh or Mesh()
    model, parts = config.model, config.data.accumulation
    sequences, width = config.data.batch_size // parts // mesh.data, value_bytes(policy, hardware)
    rows, heads, size = sequences * model.length, model.heads // mesh.model, parameters_kept(model, mesh)
    of_layer = sum(activations(model, sequences, heads=heads, width=width).values())
    kept, chunks = rows * model.hidden * _CARRIER, config.data.reduction_chunks // parts // mesh.data
    return {
        "parameters": _CARRIER * size,
        "moments": 2 * _CARRIER * size,
        "working_copy": width * size * policy.has_master,
        "gradients": _CARRIER * size * (1 if parts == 1 else parts + 1),
        "largest_matrix": _largest_matrix(model, mesh)
        * (_CARRIER * chunks + (_CARRIER + width if mesh.data > 1 else 0)),
        "histories": sum(x.nbytes for x in first_histories(policy, model.layers).values()),
        "activations": model.layers * kept + of_layer if model.recompute else model.layers * of_layer,
        "activation_gradients": _CARRIER
        * max(9 * rows * model.hidden, 2 * rows * heads * model.length + 4 * rows * model.hidden),
        "head": rows * (_CARRIER * (model.hidden + 1 + model.vocabulary) + width * (model.hidden + model.vocabulary)),
    }


def value_bytes(policy: Arithmetic, hardware: bool) -> int:
    """Of a value between two sites: hardware arithmetic keeps those of 16 bits in as many."""
    return 2 if hardware and parse_format(policy.parameters).bits == 16 else _CARRIER


def parameters_kept(model: ModelConfig, mesh: Mesh) -> int:
    """How many of the parameters a device of the mesh keeps, as ``qsim.sharding`` lays them out."""
    shapes = parameter_shapes(model)
    layouts = Shards.of(mesh.data, mesh.model, shapes, model.heads).layouts
    split = {name: math.prod(getattr(mesh, axis) for axis in layouts[name] if axis) for name in shapes}
    return sum(math.prod(shape) // split[name] for name, shape in shapes.items())


def _largest_matrix(model: ModelConfig, mesh: Mesh) -> int:
    """Values of the token table, the logits' or a block's own columns, whichever has most."""
    h, vocabulary = model.hidden, model.vocabulary
    return max(vocabulary * h, h * vocabulary // mesh.model, 4 * h * h // mesh.model)


def activations(
    model: ModelConfig, sequences: int, *, heads: int | None = None, width: int = _CARRIER
) -> dict[str, int]:
    """Bytes that the backward pass of one block needs of its forward pass, by the site that reads them.

    Every linear layer's input; of LayerNorm the normalised values and 1 / deviation, float32; q, k, v and the weights
    of attention (B, H, T, T); the input of GELU; of dropout one byte an element.  heads: those of this device, all by
    default; width: bytes of a value.
    """
    own = model.heads if heads is None else heads
    rows = sequences * model.length
    values, of_heads = rows * model.hidden, rows * (model.hidden // model.heads) * own
    sizes = {
        "layernorm_1": _CARRIER * (values + rows),
        "qkv": width * values,
        "attention": width * (3 * of_heads + sequences * own * model.length**2),
        "attention_out": width * values,
        "layernorm_2": _CARRIER * (values + rows),
        "mlp_up": width * values,
        "gelu": width * 4 * values,
        "mlp_down": width * 4 * values,
    }
    kept = {f"kept.{site}": values for site in ("attention_out", "mlp_down")} if model.dropout else {}
    return sizes | kept


def in_words(sizes: dict[str, int]) -> str:
    """``parameters 3.3 MiB, moments 6.7 MiB, ...`` of what is not zero."""
    return ", ".join(f"{kind.replace('_', ' ')} {size / 2**20:.1f} MiB" for kind, size in sizes.items() if size)
