"""Quantized arrays on disk: the same bits back, sizes, files that are cut, changed or something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from qarray_assertions import assert_same_qarray
from refusals import refused
from safetensors import safe_open
from safetensors.numpy import save_file
from strategies import drawn, generator

import precision as pr

SCHEMES = {
    "tensor": {"granularity": "tensor"},
    "row": {"granularity": "row"},
    "column": {"granularity": "column"},
    "vector": {},
    "group": {"granularity": "group", "group": 4},
    "block": {"granularity": "block", "group": 4},
    "affine": {"symmetric": False},
    "affine int4 group": {"symmetric": False, "bits": 4, "granularity": "group", "group": 3},
    "int2": {"bits": 2},
    "int4 block": {"bits": 4, "granularity": "block", "group": 4},
    "int5": {"bits": 5},
    "not clamped": {"clamps": False},
    "fp16 scales": {"scale_format": "fp16", "quotient": "inverse"},
    "bf16 scales": {"scale_format": "bf16", "quotient": "scale", "bits": 4},
    "e8m0 scales": {"scale_format": "e8m0", "quotient": "inverse", "granularity": "group", "group": 2},
    "clipped": {"clipping": pr.Clipping(method="percentile", percentile=90.5)},
    "absmax": {"scale_step": "absmax"},
}


def scheme(name: str) -> pr.QScheme:
    return pr.QScheme(name=name.replace(" ", "_"), **SCHEMES[name])


def drawn_array(shape: tuple[int, ...] = (3, 8, 9)) -> np.ndarray:
    """With a vector of zeros."""
    x = drawn(generator(11), shape, (110, 135)).view(np.float32)
    x[..., 2, :] = 0
    x[..., 4] = 0
    return x


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("name", SCHEMES)
def test_the_same_bits_come_back(tmp_path: Path, name: str, axis: int) -> None:
    q = pr.quantize(drawn_array(), scheme(name), axis=axis)
    pr.save_qarray(q, tmp_path / "w")
    again = pr.load_qarray(tmp_path / "w")
    assert_same_qarray(again, q)
    assert_same_bits(again.dequantize(), q.dequantize())
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


@pytest.mark.parametrize("scale_format", ["fp32", "fp16", "bf16", "e8m0"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_tiles_of_nan(tmp_path: Path, scale_format: str, value: float) -> None:
    one = pr.QScheme(name="any", scale_format=scale_format, quotient="inverse")
    x = np.float32([[1, value], [0, 0], [3, -2]])
    q = pr.quantize(x, one, axis=-1, nonfinite="propagate")
    pr.save_qarray(q, str(tmp_path / "w"))
    assert_same_qarray(pr.load_qarray(str(tmp_path / "w")), q)


@pytest.mark.parametrize("shape", [(5,), (0, 4), (4, 0)], ids=str)
def test_small_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    for name in ("vector", "group", "affine int4 group", "int2"):
        q = pr.quantize(np.ones(shape, np.float32), scheme(name), axis=-1)
        pr.save_qarray(q, tmp_path / "w")
        assert_same_qarray(pr.load_qarray(tmp_path / "w"), q)


def test_parts_and_turned_arrays(tmp_path: Path) -> None:
    q = pr.quantize(drawn_array(), scheme("group"), axis=-1)
    for i, part in enumerate((q[1:, ::2, 4:], q[1], q.T, q.swapaxes(0, 1)[..., :4])):
        pr.save_qarray(part, tmp_path / str(i))
        assert_same_qarray(pr.load_qarray(tmp_path / str(i)), part)


def test_arrays_of_jax(tmp_path: Path) -> None:
    q = pr.quantize(jnp.asarray(drawn_array()), scheme("affine int4 group"), axis=-2)
    pr.save_qarray(q, tmp_path / "w")
    again = pr.load_qarray(tmp_path / "w")
    assert isinstance(again.codes, np.ndarray)
    assert_same_qarray(again, q)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("vector", {"codes": 216, "scale": 24 * 4}),
        ("int4 block", {"codes": 24 * 5, "scale": 3 * 2 * 3 * 4}),
        ("int2", {"codes": 24 * 3, "scale": 24 * 4}),
        ("bf16 scales", {"codes": 24 * 5, "scale": 24 * 2}),
        ("e8m0 scales", {"codes": 216, "scale": 24 * 5}),
        ("not clamped", {"codes": 432, "scale": 24 * 4}),
    ],
)
def test_bytes_on_disk(tmp_path: Path, name: str, sizes: dict[str, int]) -> None:
    q = pr.quantize(drawn_array(), scheme(name), axis=-1)
    pr.save_qarray(q, tmp_path / "w")
    with safe_open(tmp_path / "w", framework="numpy") as opened:
        assert {key: opened.get_tensor(key).nbytes for key in opened.keys()} == sizes  # noqa: SIM118  it is no mapping
    assert sum(sizes.values()) == q.nbytes
    assert (tmp_path / "w").stat().st_size < q.nbytes + 1200


# What is not such a file


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "weights.q"
    pr.save_qarray(pr.quantize(drawn_array((8, 6)), scheme("affine int4 group"), axis=-2), path)
    return path


def refuses(path: Path, *parts: str) -> None:
    with refused(ValueError, str(path), "save it again", *parts):
        pr.load_qarray(path)


def test_every_truncation(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in (*range(0, 16), *range(16, len(whole), 37), len(whole) - 1):
        saved.write_bytes(whole[:length])
        refuses(saved)


def test_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.q", tmp_path):
        with refused(FileNotFoundError, str(path), "save_qarray"):
            pr.load_qarray(path)


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_text("not at all")
    refuses(path)
    save_file({"codes": np.zeros(3, np.int8)}, path)
    refuses(path, "no qarray")
    for facts in ("", "{", "[]", "3", '"text"', "null", "{}", '{"scheme": []}', '{"scheme": "int8"}'):
        save_file({"codes": np.zeros(3, np.int8)}, path, {"qarray": facts})
        refuses(path)


def rewritten(path: Path, facts: dict[str, Any], tensors: dict[str, np.ndarray | None]) -> None:
    """The same file with some of its facts and tensors changed; None takes a tensor away."""
    with safe_open(path, framework="numpy") as opened:
        old = json.loads(opened.metadata()["qarray"])
        kept = {name: opened.get_tensor(name) for name in opened.keys()} | tensors  # noqa: SIM118  it is no mapping
    fields = facts.pop("scheme", {})
    old = old | facts | {"scheme": old["scheme"] | fields}
    save_file({name: x for name, x in kept.items() if x is not None}, path, {"qarray": json.dumps(old)})


@pytest.mark.parametrize(
    ("facts", "tensors", "part"),
    [
        ({"shape": [8, 4]}, {}, "4 codes"),
        ({"shape": [4, 12]}, {}, "12 codes"),
        ({"shape": [7, 6]}, {}, "(7, 6)"),
        ({"axis": 0}, {}, "axis 0"),
        ({"axis": -3}, {}, "axis -3"),
        ({"axis": "k"}, {}, ""),
        ({"tiles": [3]}, {}, "tiles (3,)"),
        ({"tiles": [0, 1]}, {}, "tiles (0, 1)"),
        ({"tiles": [2, 1]}, {}, "scales of shape (3, 6)"),
        ({"tiles": ["a", 1]}, {}, "tiles"),
        ({"scheme": {"bits": 9}}, {}, "9 bits"),
        ({"scheme": {"bits": 8}}, {}, "uint8 codes"),
        ({"scheme": {"symmetric": True}}, {}, "zero points there"),
        ({"scheme": {"color": "red"}}, {}, "color"),
        ({"scheme": {"clipping": {"method": "most"}}}, {}, "most"),
        ({"scheme": {"scale_format": "fp16"}}, {}, "scale"),
        ({}, {"codes": None}, "codes"),
        ({}, {"scale": None}, "scale"),
        ({}, {"zero_point": None}, "zero points missing"),
        ({}, {"zero_point": np.zeros((3, 6), np.int8)}, "int8 zero points"),
        ({}, {"zero_point": np.zeros((3, 1), np.int32)}, "zero points of shape (3, 1)"),
        ({}, {"codes": np.zeros((8, 3), np.int8)}, "int8"),
        ({}, {"scale": np.ones((3, 6), np.float64)}, ""),
        ({}, {"scale": np.ones((3, 6), np.uint8)}, ""),
        ({}, {"scale": np.ones((6, 3), np.uint32)}, "scales of shape (6, 3)"),
    ],
    ids=str,
)
def test_tampered_files(saved: Path, facts: dict, tensors: dict, part: str) -> None:
    rewritten(saved, dict(facts), tensors)
    refuses(saved, part)


def test_rewriting_alone_keeps_the_array(saved: Path) -> None:
    before = pr.load_qarray(saved)
    rewritten(saved, {}, {})
    assert_same_qarray(pr.load_qarray(saved), before)


# Whole or not there


@pytest.mark.parametrize("step", ["replace", "open"])
def test_interrupted_before_the_name_changes_hands(saved: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    before = saved.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    q = pr.quantize(np.ones((2, 2), np.float32), axis=-1)
    with monkeypatch.context() as patched:
        patched.setattr(Path, step, fail)
        with pytest.raises(KeyboardInterrupt):
            pr.save_qarray(q, saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_saved_over_an_older_file(saved: Path) -> None:
    q = pr.quantize(np.ones((2, 2), np.float32), axis=-1)
    pr.save_qarray(q, saved)
    assert_same_qarray(pr.load_qarray(saved), q)


def test_other_arrays(tmp_path: Path) -> None:
    x = np.ones((2, 32), np.float32)
    for array in (x, pr.quantize_blocks(x, "mxint8")):
        with refused(TypeError, type(array).__name__, "QScheme"):
            pr.save_qarray(array, tmp_path / "w")


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pr.save_qarray(pr.quantize(np.ones((2, 2), np.float32), axis=-1), tmp_path / "nowhere" / "w")
