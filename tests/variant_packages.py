"""The packages whose INT8 ``variant_oracle`` restates, as functions of NumPy arrays; a missing one skips the test.

x (m, k) and w (n, k) are float32, bfloat16 or float16; all run on the CPU.  The oracle was read from, and checked
against, torch 2.13.0, torchao 0.18.0, bitsandbytes 0.50.2, qwix 0.1.8, aqtp 0.9.0 and jax 0.10.2.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variant_oracle import BF16

ROWS = (((1,), (1,)), ((), ()))  # x w^T


def package(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name.split('.')[0]} is of the optional extra 'variants'")


def tensor(x: np.ndarray) -> Any:
    torch = package("torch")
    if x.dtype == BF16:
        return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(x.copy())


def array(t: Any) -> np.ndarray:
    torch = package("torch")
    return t.view(torch.int16).numpy().view(BF16) if t.dtype == torch.bfloat16 else t.numpy()


def bias_of(bias: np.ndarray | None) -> Any:
    return None if bias is None else tensor(bias)


# torchao


def int8_tensor(x: np.ndarray, **options: Any) -> Any:
    module = package("torchao.quantization.quantize_.workflows.int8.int8_tensor")
    return module.Int8Tensor.from_hp(tensor(x), package("torchao.quantization").PerRow(), **options)


def torchao(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    quantized = int8_tensor(x)
    return array(quantized.qdata), array(quantized.scale)


def torchao_product(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    module = package("torchao.quantization.quantize_.workflows.int8.int8_tensor")
    rows = module.QuantizeTensorToInt8Kwargs(granularity=package("torchao.quantization").PerRow())
    weight = int8_tensor(w, act_quant_kwargs=rows)
    return array(package("torch").nn.functional.linear(tensor(x), weight, bias_of(bias)))


def torchao_int4(w: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    module = package("torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor")
    quantized = module.IntxUnpackedToInt8Tensor.from_hp(tensor(w), (1, group), package("torch").int4)
    return array(quantized.qdata), array(quantized.scale)


# qwix


def qwix_quantized(x: Any) -> Any:
    module = package("qwix._src.core.qarray")
    return module.quantize(x, module.HowToQuantize(qtype=jnp.int8, channelwise_axes=(0,)))


def qwix(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    quantized = qwix_quantized(jnp.asarray(x))
    return np.asarray(quantized.qvalue), np.asarray(quantized.scale)


def qwix_product(x: np.ndarray, w: np.ndarray, *, jit: bool = False) -> np.ndarray:
    dot = package("qwix._src.core.dot_general").dot_general

    def product(x: Any, w: Any) -> Any:
        return dot(qwix_quantized(x), qwix_quantized(w), ROWS)

    return np.asarray((jax.jit(product) if jit else product)(jnp.asarray(x), jnp.asarray(w)))


# AQT


def aqt(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    quantizer = package("aqt.jax.v2.aqt_quantizer").quantizer_make(8)
    quantized, _ = quantizer.quant(jnp.asarray(x), calibration_axes=[1])
    return np.asarray(quantized.qvalue), np.asarray(quantized.scale[0])


def aqt_product(x: np.ndarray, w: np.ndarray, *, jit: bool = False) -> np.ndarray:
    dot = package("aqt.jax.v2.aqt_dot_general").dot_general_make(8, 8)

    def product(x: Any, w: Any) -> Any:
        return dot(x, w, ROWS)

    return np.asarray((jax.jit(product) if jit else product)(jnp.asarray(x), jnp.asarray(w)))


# bitsandbytes


def bnb_cpu(x: np.ndarray, threshold: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    codes, largest, _ = package("bitsandbytes").functional.int8_vectorwise_quant(tensor(x), threshold=threshold)
    return array(codes), array(largest)


def bnb_cpu_product(x: np.ndarray, w: np.ndarray, bias: Any = None, threshold: float = 0.0) -> np.ndarray:
    bitsandbytes = package("bitsandbytes")
    state = bitsandbytes.MatmulLtState()
    state.has_fp16_weights = state.is_training = False
    product = bitsandbytes.matmul(tensor(x), tensor(w), bias=bias_of(bias), threshold=threshold, state=state)
    return array(product)


def bnb_cpu_dequantized(acc: np.ndarray, row: np.ndarray, column: np.ndarray, bias: np.ndarray) -> np.ndarray:
    dequantize = package("bitsandbytes").functional.int8_mm_dequant
    return array(dequantize(tensor(acc), tensor(row), tensor(column), bias=tensor(bias)))


# SmoothQuant is no package: its published steps in torch


def smoothquant(x: np.ndarray, *, per_tensor: bool = False) -> tuple[np.ndarray, np.ndarray]:
    values = tensor(x)
    scale = values.abs().max() if per_tensor else values.abs().amax(dim=-1, keepdim=True)
    scale = scale.clamp(min=1e-5) / 127
    return array((values / scale).round() * scale), array(scale).reshape(-1, 1)
