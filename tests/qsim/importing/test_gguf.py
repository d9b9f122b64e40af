"""GGUF files through the package's own writer: the logits of the same checkpoint elsewhere, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import plain_decoders
import pytest
import small_checkpoints
from bits_assertions import assert_same_bits
from refusals import refused
from small_checkpoints import CHECKPOINTS, HEAD, HEADS, LAYERS, Checkpoint

from qsim.decoder import decoder_forward
from qsim.importing import ModelError, open_model
from qsim.importing.gguf_files import GgufFile
from qsim.importing.gguf_tokenizer import tokenizer_of
from qsim.policy import POLICIES
from qsim.sites import Calculator

TOKENS = small_checkpoints.tokens()
BLOCK = 32


def test_the_package_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with refused(ModelError, str(file), "the package gguf; pip install 'qsim-precision[hf]'"):
        open_model(file)


gguf: Any = pytest.importorskip("gguf", reason="GGUF files are written by the package gguf; install it to test them")

LLAMA_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GPT2_NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def alternating(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head as llama.cpp turns them: 0, d/2, 1, d/2 + 1, ..."""
    order = [
        head * HEAD + part * (HEAD // 2) + i for head in range(heads) for i in range(HEAD // 2) for part in (0, 1)
    ]
    return rows[order]


def llama_tensors(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    config, tensors = checkpoint
    found = {"token_embd.weight": tensors["model.embed_tokens.weight"]}
    found["output_norm.weight"] = tensors["model.norm.weight"]
    if "lm_head.weight" in tensors:
        found["output.weight"] = tensors["lm_head.weight"]
    heads = {"attn_q": HEADS, "attn_k": config["num_key_value_heads"]}
    for i in range(LAYERS):
        for theirs, name in LLAMA_NAMES.items():
            w = tensors[f"model.layers.{i}.{theirs}.weight"]
            found[f"blk.{i}.{name}.weight"] = alternating(w, heads[name]) if name in heads else w
    return found


def gpt2_tensors(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    tensors = {name.removeprefix("transformer."): w for name, w in checkpoint[1].items()}
    found = {"token_embd.weight": tensors["wte.weight"], "position_embd.weight": tensors["wpe.weight"]}
    found |= {f"output_norm.{kind}": tensors[f"ln_f.{kind}"] for kind in ("weight", "bias")}
    for i in range(LAYERS):
        for theirs, name in GPT2_NAMES.items():
            for kind in ("weight", "bias"):
                w = tensors[f"h.{i}.{theirs}.{kind}"]
                found[f"blk.{i}.{name}.{kind}"] = np.ascontiguousarray(w.T) if w.ndim == 2 else w
    return found


def metadata(config: dict[str, Any]) -> dict[str, Any]:
    """By the names of the specification, without the architecture before them."""
    if config["model_type"] == "gpt2":
        pairs = {"block_count": "n_layer", "embedding_length": "n_embd", "attention.head_count": "n_head"}
        pairs |= {"feed_forward_length": "n_inner", "context_length": "n_positions"}
        return {k: config[v] for k, v in pairs.items()} | {"attention.layer_norm_epsilon": 1e-5}
    pairs = {"block_count": "num_hidden_layers", "embedding_length": "hidden_size"}
    pairs |= {"attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads"}
    pairs |= {"feed_forward_length": "intermediate_size", "context_length": "max_position_embeddings"}
    found = {k: config[v] for k, v in pairs.items()} | {"rope.dimension_count": HEAD}
    return found | {"attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": config["rope_theta"]}


def write(
    path: Path, architecture: str, values: dict[str, Any], tensors: dict[str, np.ndarray], kind: str = "F32"
) -> Path:
    """Vectors stay float32, as converters leave them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(path), architecture)
    for name, value in values.items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{architecture}.{name}", value)
    for name, w in tensors.items():
        if w.ndim == 1 or kind == "F32":
            writer.add_tensor(name, w)
        else:
            which = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, gguf.quants.quantize(w, which), raw_dtype=which)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def written(folder: Path, name: str, kind: str = "F32", **changes: Any) -> Path:
    checkpoint = CHECKPOINTS[name]()
    config = checkpoint[0]
    tensors = gpt2_tensors(checkpoint) if config["model_type"] == "gpt2" else llama_tensors(checkpoint)
    values = {k: v for k, v in (metadata(config) | changes).items() if v is not None}
    return write(folder / "model.gguf", config["model_type"], values, tensors, kind)


@pytest.mark.parametrize("name", ["llama", "llama, tied", "gpt2"])
def test_logits_are_those_of_the_folder(tmp_path: Path, name: str) -> None:
    checkpoint = CHECKPOINTS[name]()
    model = open_model(written(tmp_path, name))
    folder = open_model(small_checkpoints.write(tmp_path / "folder", checkpoint))
    found, expected = (
        decoder_forward(Calculator(POLICIES["fp32"], "numpy"), one.config, one.weights, TOKENS)
        for one in (model, folder)
    )
    true = plain_decoders.logits(*checkpoint, TOKENS)
    assert np.abs(found - true).max() <= 1e-5 * np.abs(true).max()
    assert_same_bits(found, expected)
    assert model.config.epsilon == np.float32(folder.config.epsilon)  # which GGUF keeps in float32


@pytest.mark.parametrize(("kind", "dtype"), [("F16", np.float16), ("BF16", small_checkpoints.BF16)])
def test_half_precision_is_widened_exactly(tmp_path: Path, kind: str, dtype: Any) -> None:
    model = open_model(written(tmp_path, "llama", kind))
    expected = open_model(
        small_checkpoints.write(tmp_path / "folder", small_checkpoints.rounded(CHECKPOINTS["llama"](), dtype))
    )
    mine, theirs = model.layer(2), expected.layer(2)
    for name in ("qkv.weight", "attention_out.weight", "mlp_gate.weight", "mlp_down.weight"):
        assert_same_bits(mine[name], theirs[name])


def dequantized(kind: str, data: np.ndarray) -> np.ndarray:
    """Blocks of 32 by the definition of ggml: scale, offset in fp16, then codes, low nibbles for the first half."""
    rows = []
    for row in data:
        values: list[np.ndarray] = []
        size = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}[kind]
        for block in row.reshape(-1, size):
            scale = block[:2].view(np.float16).astype(np.float64)
            if kind == "Q8_0":
                values.append(scale * block[2:].view(np.int8))
                continue
            packed = block[-16:]
            codes = np.concatenate([packed & 15, packed >> 4]).astype(np.float64)
            offset = block[2:4].view(np.float16).astype(np.float64)
            values.append(scale * codes + offset if kind == "Q4_1" else scale * (codes - 8))
        rows.append(np.concatenate(values))
    return np.array(rows).astype(np.float32)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_blocks_are_read_as_defined(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(3)
    w = rng.normal(0, 1, (5, 3 * BLOCK)).astype(np.float32)
    w[0] *= 1e-6  # scales that are subnormal in fp16
    w[1, :BLOCK] = 0
    which = gguf.GGMLQuantizationType[kind]
    path = write(tmp_path / "one.gguf", "llama", {}, {"x": w}, kind)
    file = GgufFile(path)
    assert file.shapes["x"] == (5, 3 * BLOCK)
    assert_same_bits(file.read("x"), dequantized(kind, gguf.quants.quantize(w, which)))


def with_tokenizer(path: Path, pre: str = "smollm", kind: str = "gpt2", merges: bool = True) -> Path:
    """Four letters, a digit twice, two merges, a control token."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(["a", "b", "c", "\u0120", "ab", "abc", "<end>", "7", "77"])
    writer.add_token_types([1, 1, 1, 1, 1, 1, 3, 1, 1])
    if merges:
        writer.add_token_merges(["a b", "ab c", "7 7"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_tokenizer_of_a_file(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="byte pairs are merged by the package tokenizers; install it")
    digits = tokenizer_of(GgufFile(with_tokenizer(tmp_path / "a.gguf")))
    assert digits.encode("abcab 77<end>").tolist() == [5, 4, 3, 7, 7, 6]
    assert digits.decode([5, 4, 3, 7, 7, 6]) == "abcab 77<end>"
    assert tokenizer_of(GgufFile(with_tokenizer(tmp_path / "b.gguf", "gpt-2"))).encode("77").tolist() == [8]


def test_tokenizers_that_are_not_read(tmp_path: Path) -> None:
    with refused(ModelError, "of kind 'llama', 'default', which is not read; give tokens"):
        tokenizer_of(GgufFile(with_tokenizer(tmp_path / "a.gguf", "default", "llama")))
    with refused(ModelError, "of kind 'gpt2', 'qwen2', which is not read", "gpt-2, smollm"):
        tokenizer_of(GgufFile(with_tokenizer(tmp_path / "b.gguf", "qwen2")))
    with refused(ModelError, "no list tokenizer.ggml.merges"):
        tokenizer_of(GgufFile(with_tokenizer(tmp_path / "c.gguf", merges=False)))


def test_what_is_not_offered(tmp_path: Path) -> None:
    with refused(ModelError, "holds x as Q5_0, which is not read; F32, F16, BF16, Q8_0, Q4_0, Q4_1 are"):
        GgufFile(write(tmp_path / "q.gguf", "llama", {}, {"x": np.ones((2, BLOCK), np.float32)}, "Q5_0")).check("x")
    other = write(tmp_path / "other.gguf", "falcon", {}, {"token_embd.weight": np.ones((2, 2), np.float32)})
    with refused(ModelError, str(other), "architecture 'falcon', which is not offered; llama, gpt2 are"):
        open_model(other)
    empty = write(tmp_path / "empty.gguf", "llama", {}, {"x": np.ones((2, 2), np.float32)})
    with refused(ModelError, str(empty), "no tensor token_embd.weight"):
        open_model(empty)
    with refused(ModelError, "has no llama.block_count"):
        open_model(written(tmp_path / "a", "llama", block_count=None))
    with refused(ModelError, "of shape [40, 24], and the configuration asks for [48, 24]"):
        open_model(written(tmp_path / "b", "llama", feed_forward_length=48))
    with refused(ModelError, "llama.expert_count 8; of llama models only 0 is offered"):
        open_model(written(tmp_path / "c", "llama", expert_count=8))
    with refused(ModelError, "llama.rope.dimension_count 4 and llama.attention.key_length 8"):
        open_model(written(tmp_path / "d", "llama", **{"rope.dimension_count": 4, "attention.key_length": 8}))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, "llama")
    data = file.read_bytes()
    for left in [0, 3, 4, 8, 20, 24, 60, 200, 700, 1500, 3000, len(data) // 2, len(data) - 1]:
        file.write_bytes(data[:left])
        with refused(ModelError, str(file)):
            open_model(file)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"PK\x03\x04" + bytes(500))
    with refused(ModelError, str(file), "no whole GGUF file"):
        open_model(file)
