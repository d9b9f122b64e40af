"""Run by ``test_sharded_checkpoints``: a state on a mesh of eight devices saved in shards, and read on other meshes.

Arguments: a folder; how many processes there are, each of as many devices, their port and which one this is.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from small_runs import assert_same_trees, small_config

from qsim.checkpointing import ShardedCheckpoints
from qsim.checkpoints import (
    PARTS,
    Checkpoint,
    CheckpointError,
    CheckpointWarning,
    checkpoint_path,
    load_checkpoint,
    load_last_checkpoint,
    saved_steps,
)
from qsim.devices import Devices, find_devices
from qsim.mesh import Mesh
from qsim.model import initial_parameters
from qsim.optimizer import ScaleState
from qsim.policy import parse_policy
from qsim.processes import join_processes

FOLDER, (PROCESSES, PORT, PROCESS) = Path(sys.argv[1]), map(int, sys.argv[2:])
CONFIG = small_config(**{"data.batch_size": 4, "data.reduction_chunks": 4})
TREES = [{name: w + np.float32(i) for name, w in initial_parameters(CONFIG.model, i).items()} for i in range(3)]
HISTORIES = {"blocks.qkv.x": np.arange(8, dtype=np.float32).reshape(2, 4)}
STATE = dict(zip(PARTS, TREES, strict=True)) | {"absmax": HISTORIES}


def on(data: int, model: int = 1) -> Devices:
    return find_devices(CONFIG, parse_policy("fp16"), "jax", Mesh(data=data, model=model))


def check(devices: Devices) -> None:
    found = load_checkpoint(FOLDER, 3, devices).state
    for part, tree in found.items():
        if devices.processes == 1:
            assert_same_trees(tree, STATE[part])
        for name, w in tree.items():
            for shard in getattr(w, "addressable_shards", []):
                assert np.asarray(shard.data).tobytes() == STATE[part][name][shard.index].tobytes()
            if part == "absmax":  # whole on every host
                assert_same_trees(tree, HISTORIES)
            elif devices.shards.count > 1:
                assert w.sharding == devices.sharding(part, name)


def damage() -> None:
    """One of the files that, of two processes, the second checks."""
    files = sorted(json.loads((checkpoint_path(FOLDER, 3) / "state.json").read_text())["files"])
    path = checkpoint_path(FOLDER, 3) / files[PROCESSES - 1]
    path.write_bytes(path.read_bytes()[:-1])


if __name__ == "__main__":
    if PROCESSES > 1:
        join_processes(f"127.0.0.1:{PORT}", PROCESSES, PROCESS, None)
    eight = on(4, 2)
    saver = ShardedCheckpoints(FOLDER, eight)
    facts = {"policy_sha256": "ab", "data_sha256": "cd", "scale": ScaleState(scale=2.0)}
    saver.save(Checkpoint(step=3, updates=3, state=eight.place(STATE, "state"), **facts))
    saver.wait()
    assert checkpoint_path(FOLDER, 3).is_dir()
    print("saved")
    for mesh in [(4, 2)] if PROCESSES > 1 else [(4, 2), (2, 1), (1, 2), (1, 1)]:
        check(on(*mesh))
    check(on(2, 2) if PROCESSES == 1 else on(4, 2))
    print("read")
    eight.largest_of_processes(0)  # all have read
    if PROCESS == 0:
        damage()
    eight.largest_of_processes(0)
    with pytest.raises(CheckpointError, match="altered"):
        load_checkpoint(FOLDER, 3, eight)
    with pytest.warns(CheckpointWarning, match="damaged") if PROCESS == 0 else nullcontext():
        assert load_last_checkpoint(FOLDER, eight) is None
    assert saved_steps(FOLDER) == []
    print("damage noticed")
