"""Rows made by training: resumed to the same hashes, made once, by one process or several."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import contents, write_text
from tiny_scale import TINY

import experiments.making as making
from experiments.answering import ANSWERED
from experiments.catalogue import experiments_named
from experiments.making import Place, make, make_side_by_side
from experiments.measuring import unigram_entropy
from experiments.plan import open_data, plan
from experiments.quantizing import SCHEMES
from experiments.rows import Store
from experiments.variant import Training, Variant
from qsim.checkpoints import load_checkpoint, saved_steps
from qsim.hashing import tree_hash
from qsim.interruption import Interrupted

FIGURES = ("hashes", "checkpoints", "training", "unigram_entropy")
VARIANTS = (Variant(label="bf16"), Variant(label="fp16", policy="fp16"))


def trainings() -> list[Training]:
    return [variant.training(TINY, 0) for variant in VARIANTS]


def place(folder: Path, **more: Any) -> Place:
    """Data of a few KB of words in ``folder``/out."""
    folder.mkdir(exist_ok=True)
    open_data(folder / "out", TINY.config, [write_text(folder)])
    return Place(out=folder / "out", work=folder / "work", scale="smoke", **more)


def figures(found: Place) -> list[dict[str, Any]]:
    rows = sorted(Store(found.out).rows().values(), key=lambda row: row["label"])
    return [{name: row[name] for name in FIGURES} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Place:
    found = place(tmp_path_factory.mktemp("whole"))
    make(trainings(), found)
    return found


def test_a_row_holds_what_was_measured(whole: Place) -> None:
    row = next(iter(Store(whole.out).rows().values()))
    assert set(row["checkpoints"]) == {"2", "4", "6"}
    last, early = row["checkpoints"]["6"], row["checkpoints"]["2"]
    assert len(last["losses"]["pre"]) == TINY.sequences
    assert set(early["losses"]) < set(last["losses"])
    sites = ["qkv", "attention_out", "mlp_up", "mlp_down"]
    assert [(one["layer"], one["site"]) for one in last["layers"]] == [(0, site) for site in sites]
    assert row["training"]["sampled_steps"] == 3
    assert row["hashes"].keys() == {"loss", "gradients", "parameters", "optimizer"}


def test_early_checkpoints_go_once_they_are_measured(whole: Place) -> None:
    assert [saved_steps(path) for path in whole.work.iterdir() if path.is_dir()] == [[6], [6]]


def test_a_finished_row_is_never_made_again(whole: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(whole.out)
    monkeypatch.setattr(making, "trained", None)
    make(trainings(), whole)
    assert contents(whole.out) == before


@pytest.mark.thinned(0.25)
@pytest.mark.usefixtures("as_a_terminal_has_it")
@pytest.mark.parametrize("after", [0, 1, 3, 6])
def test_interrupted_and_resumed_it_is_the_same_row(whole: Place, tmp_path: Path, after: int) -> None:
    """Ctrl-C in the step after ``after``: what was saved by then is gone on with."""
    found, plain = place(tmp_path), making.train

    def stopped(run: Any, corpus: Any, **more: Any) -> Any:
        def begin(*_: object) -> Any:
            class Bar:
                def __enter__(self) -> Any:
                    return self

                def __exit__(self, *error: object) -> None:
                    pass

                def update(self, step: int, loss: float) -> None:
                    if step == max(after, 1):
                        os.kill(os.getpid(), signal.SIGINT if after else signal.SIGTERM)
                        time.sleep(0)  # the handler runs between two instructions

            return Bar()

        return plain(run, corpus, progress=begin, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "train", stopped)
        with pytest.raises(Interrupted):
            make(trainings()[:1], found)
    assert Store(found.out).rows() == {}
    make(trainings(), found)
    assert figures(found) == figures(whole)


def test_what_was_killed_before_its_first_checkpoint_begins_anew(whole: Place, tmp_path: Path) -> None:
    found = place(tmp_path)
    folder = found.work / trainings()[0].key(open_data(found.out, TINY.config, []).sha256)
    (folder / "statistics").mkdir(parents=True)
    (folder / "config.json").write_text("{")
    make(trainings(), found)
    assert figures(found) == figures(whole)


def test_after_the_time_limit_nothing_starts(tmp_path: Path) -> None:
    found = place(tmp_path, deadline=time.time() - 1)
    make(trainings(), found)
    assert Store(found.out).rows() == {}
    assert not found.work.exists()


def test_at_the_time_limit_a_training_stops_and_is_saved(tmp_path: Path) -> None:
    found = place(tmp_path, deadline=time.time() + 0.5)
    long = [Variant(label="bf16", changes=(("steps", 100000),)).training(TINY, 0)]
    make(long, found)
    assert Store(found.out).rows() == {}
    (run,) = [path for path in found.work.iterdir() if path.is_dir()]
    assert saved_steps(run)[-1] > 0


@pytest.mark.exhaustive
def test_several_processes_make_the_same_rows(whole: Place, tmp_path: Path) -> None:
    found = place(tmp_path)
    make_side_by_side(trainings(), found, 2)
    assert figures(found) == figures(whole)


def test_a_row_that_another_process_makes_is_passed_over(tmp_path: Path) -> None:
    found = place(tmp_path)
    key = trainings()[0].key(open_data(found.out, TINY.config, []).sha256)
    with making.claimed(found.work / f"{key}.lock"):
        thread = threading.Thread(target=make, args=(trainings()[:1], found))
        thread.start()
        thread.join()
    assert Store(found.out).rows() == {}


# Measurements against definitions


def test_early_rows_keep_fewer_figures(whole: Place) -> None:
    for row in Store(whole.out).rows().values():
        early, last = (row["checkpoints"][step] for step in ("2", "6"))
        assert [one["site"] for one in early["layers"]] == ["qkv", "mlp_up"]
        for one in early["layers"]:
            assert one.keys() < next(full for full in last["layers"] if full["site"] == one["site"]).keys()
        assert set(last["outliers"]) == {"6", "4.5", "3"}
        assert {len(counts) for counts in last["outliers"].values()} == {len(last["readings"])}
        assert sum(last["gains"][0]["counts"]) == 16  # the width of the model
        assert last["tasks"].keys() <= set(ANSWERED)


def test_a_model_that_diverged_makes_a_row(tmp_path: Path) -> None:
    found = place(tmp_path)
    make([Variant(label="far", changes=(("optimizer.learning_rate", 1e8),), policy="fp16").training(TINY, 0)], found)
    (row,) = Store(found.out).rows().values()
    last = row["checkpoints"]["6"]
    assert all(np.isnan(losses).all() for losses in last["losses"].values())
    assert set(last["losses"]) == {"pre", *SCHEMES}
    assert all(np.isnan(one["rmse"]) for one in last["layers"])


def test_unigram_entropy(whole: Place) -> None:
    corpus = open_data(whole.out, TINY.config, [])
    counts = dict.fromkeys(range(256), 1)
    for token in corpus.train.tolist():
        counts[token] += 1
    total = sum(counts.values())
    expected = np.mean([-np.log(counts[token] / total) for token in corpus.validation.tolist()])
    assert unigram_entropy(corpus) == pytest.approx(float(expected))


def test_plan_knows_what_is_done_and_what_rows_cost(whole: Place) -> None:
    corpus, rows = open_data(whole.out, TINY.config, []), Store(whole.out).rows()
    found = plan(experiments_named(["half_precision"]), TINY, corpus, rows)
    assert [row.done for row in found] == [True, True, False, False]
    assert [row.seconds > 0 for row in found] == [False, False, True, True]


def started() -> list[Training]:
    first = Variant(label="fp16", policy="fp16")
    return [v.training(TINY, 0) for v in (first, Variant(label="then bf16", start=first))]


def test_a_row_starts_from_the_last_weights_of_another(whole: Place, tmp_path: Path) -> None:
    found = place(tmp_path)
    first, then = started()
    make([then], found)  # whose start is made for it, without a row
    (row,) = Store(found.out).rows().values()
    key = first.key(row["data_sha256"])
    other = next(one for one in Store(whole.out).rows().values() if one["label"] == "fp16")
    assert key == other["key"]
    last = load_checkpoint(found.work / key, TINY.config.steps).state["parameters"]
    begun = making.RunFolder.open(found.work / row["key"]).record()["started_from"]
    assert begun["parameters_sha256"] == tree_hash(last) == other["hashes"]["parameters"]
    alone = next(one for one in Store(whole.out).rows().values() if one["label"] == "bf16")
    assert row["checkpoints"]["6"]["losses"]["pre"] != alone["checkpoints"]["6"]["losses"]["pre"]
    make([first], found)
    assert [one["key"] for one in Store(found.out).rows().values()] == [row["key"], key]


def test_the_start_is_part_of_the_key() -> None:
    first, then = started()
    other = Variant(label="x", start=Variant(label="bf16")).training(TINY, 0)
    plain = Variant(label="x").training(TINY, 0)
    assert len({one.key("") for one in (first, then, other, plain)}) == 4
