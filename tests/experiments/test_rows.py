"""The store: keyed, shared, never made twice, whole whatever happens."""

from __future__ import annotations

import dataclasses
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from experiments import half_precision, int4, underflow, weight_decay
from experiments.rows import RowError, Store, claimed
from experiments.scales import SCALES
from experiments.variant import Variant
from qsim.policy import POLICIES

SMALL, DATA = SCALES["small"], "0" * 64


def key(variant: Variant, seed: int = 0, data: str = DATA, scale: Any = SMALL) -> str:
    return variant.training(scale, seed).key(data)


def row(name: str) -> dict[str, Any]:
    config = {"steps": 2, "optimizer": {"weight_decay": 0.1, "clip": None, "learning_rate": 1e-3}}
    config |= {"model": {"dropout": 0.0, "positions": "learned", "length": 4}}
    facts = dict.fromkeys(("label", "scale", "policy", "executor", "policy_sha256", "data_sha256"), "x")
    last = {"losses": {"pre": [1.0, 2.0]}, "right": {"pre": [3, 1]}}
    more = {"training": {"skipped_steps": 0}, "checkpoints": {"2": last}, "hashes": {"loss": "y"}}
    return facts | {"key": name, "seed": 0, "seconds": 1.0, "unigram_entropy": 3.0, "config": config} | more


def test_experiments_share_rows() -> None:
    variants = [v for e in (half_precision, weight_decay, underflow, int4) for v in e.VARIANTS]
    wanted = {key(variant) for variant in variants}
    assert (len(variants), len(wanted)) == (20, 13)


def test_key_is_of_what_is_computed() -> None:
    plain, again = Variant(label="a"), Variant(label="b", changes=(("optimizer.weight_decay", 0.1),))
    assert key(plain) == key(again)
    named = Variant(label="c", policy=dataclasses.replace(POLICIES["bf16"], name="other"))
    assert key(plain) == key(named)
    assert key(plain) == key(plain, scale=dataclasses.replace(SMALL, executor="numpy"))


@pytest.mark.parametrize(
    "other",
    [
        key(Variant(label="a"), seed=1),
        key(Variant(label="a"), data="1" * 64),
        key(Variant(label="a", policy="fp16")),
        key(Variant(label="a", changes=(("optimizer.clip", None),))),
        key(Variant(label="a"), scale=SCALES["smoke"]),
        key(Variant(label="a"), scale=dataclasses.replace(SMALL, sequences=1)),
    ],
)
def test_and_of_all_of_it(other: str) -> None:
    assert other != key(Variant(label="a"))


def test_and_of_what_is_newer_than_rows() -> None:
    """A key that a configuration did not always have counts where it says something new."""
    sinusoidal = (("model.positions", "sinusoidal"),)
    plain, one, other = (
        key(Variant(label="a", changes=(*sinusoidal, *more)))
        for more in ((), (("model.position_scale", 1.0),), (("model.position_scale", 0.5),))
    )
    assert plain == one != other


def test_where_no_bits_are_promised_the_executor_counts() -> None:
    native = Variant(label="a", policy="native-bf16")
    assert key(native) != key(native, scale=dataclasses.replace(SMALL, executor="numpy"))


def test_rows_come_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.rows() == {}
    store.add(row("a"))
    store.add(row("b") | {"seconds": float("inf")})
    assert store.rows() == {"a": row("a"), "b": row("b") | {"seconds": float("inf")}}
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert len(lines) == 3
    assert "loss_pre" in lines[0]
    assert ",1.5," in lines[1]


def test_a_row_is_added_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(row("a"))
    store.add(row("a") | {"seconds": 5.0})
    assert store.rows() == {"a": row("a")}


def test_a_line_cut_short_is_no_row(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(row("a"))
    store.add(row("b"))
    data = store.path.read_bytes()
    store.path.write_bytes(data[:-9])
    assert list(store.rows()) == ["a"]
    store.add(row("c"))
    assert list(store.rows()) == ["a", "c"]


def test_a_damaged_line_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.path.write_text("{}\n")
    with pytest.raises(RowError, match=r"line 1 of .*rows.jsonl' is no row; restore or delete it"):
        store.rows()


def _add(folder: Path, first: int) -> None:
    for number in range(first, first + 10):
        Store(folder).add(row(str(number)))


def test_several_processes_add_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add, args=(tmp_path, first)) for first in (0, 5, 10)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(map(int, Store(tmp_path).rows())) == list(range(20))


def test_one_process_makes_a_row(tmp_path: Path) -> None:
    with claimed(tmp_path / "a.lock") as mine, claimed(tmp_path / "a.lock") as other:
        assert (mine, other) == (True, False)
    with claimed(tmp_path / "a.lock") as mine:
        assert mine
