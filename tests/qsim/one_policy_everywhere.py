"""Run by ``test_same_hashes``: the same training run in one process on executors and meshes, a run folder of each.

Arguments: a folder that holds ``text.txt``, a policy, a number of steps, places: ``numpy``, ``numba``, ``jax``, or a
mesh of JAX devices, ``data=4,model=2``.  With --join COORDINATOR PROCESS this is one process of two.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

from small_runs import small_config

from precision.backends import BACKENDS
from qsim.mesh import parse_mesh
from qsim.policy import POLICIES, Arithmetic
from qsim.processes import join_processes
from qsim.training import train_new

MODEL = {"layers": 4, "hidden": 16, "heads": 4, "length": 8, "dropout": 0.1}
CHANGES = {f"model.{key}": value for key, value in MODEL.items()} | {
    "data.batch_size": 8,
    "data.reduction_chunks": 8,
    "data.validation_batches": 1,
    "optimizer.learning_rate": 1e-2,
    "optimizer.clip": 0.8,
    "record.checkpoint_every": 0,
    "record.statistics_every": 0,
}


def restless(policy: Arithmetic) -> Arithmetic:
    """The policy, a dynamic loss scale beginning so high that steps are skipped, and soon growing again."""
    if policy.loss_scaling.mode != "dynamic":
        return policy
    return dataclasses.replace(
        policy, loss_scaling=dataclasses.replace(policy.loss_scaling, initial=2.0**24, interval=8)
    )


def train_on(place: str, folder: Path, policy: str, steps: int) -> None:
    on_mesh = "=" in place
    train_new(
        folder / place,
        small_config(steps=steps, **CHANGES),
        restless(POLICIES[policy]),
        "jax" if on_mesh else place,
        [folder / "text.txt"],
        mesh=parse_mesh(place.removeprefix("processes:")) if on_mesh else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("policy")
    parser.add_argument("steps", type=int)
    parser.add_argument("places", nargs="+")
    parser.add_argument("--join", nargs=2, metavar=("COORDINATOR", "PROCESS"))
    asked = parser.parse_args()
    if asked.join:
        join_processes(asked.join[0], 2, int(asked.join[1]), None)
    for place in asked.places:
        began = time.perf_counter()
        train_on(place, asked.folder, asked.policy, asked.steps)
        print(f"{place}: {time.perf_counter() - began:.1f} s", flush=True)


if __name__ == "__main__":
    assert set(BACKENDS) == {"numpy", "numba", "jax"}
    main()
