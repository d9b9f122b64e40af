"""``qsim export``: a run as a checkpoint that others read."""

from __future__ import annotations

import json
from pathlib import Path

from qsim.commands.command import AddCommand, Arguments


def add(command: AddCommand) -> None:
    export = command("export", _export, "write a run's parameters as a GPT-2 checkpoint of Hugging Face")
    export.add_argument("base", type=Path, metavar="RUN", help="a run, or one of its checkpoints")
    export.add_argument("--out", type=Path, required=True, help="new folder")
    export.add_argument("--step", type=int, help="of which checkpoint; the last one by default")


def _export(arguments: Arguments) -> int:
    from qsim.checkpoints import checkpoint_path
    from qsim.decoder import ResidentWeights
    from qsim.importing import ModelError, export_gpt2, open_model

    path = arguments.base if arguments.step is None else checkpoint_path(arguments.base, arguments.step)
    model = open_model(path)
    if model.run is None or not isinstance(model.weights, ResidentWeights):
        raise ModelError(
            f"{arguments.base} is no run of this project but of architecture {model.architecture}; name a run"
        )
    folder = export_gpt2(model.run.config.model, model.weights.parameters, arguments.out)
    result = {"from": str(model.source), "to": str(folder)}
    print(json.dumps(result, indent=1) if arguments.json else f"wrote {folder}, the parameters of {model.source}")
    return 0
