"""``qsim import``: what a model is, and the model as a folder of this project."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsim import strict_json
from qsim.commands.columns import print_columns
from qsim.commands.command import AddCommand, Arguments
from qsim.config import ConfigError

if TYPE_CHECKING:
    from qsim.importing.describing import Description


def add(command: AddCommand) -> None:
    parser = command("import", _import, "what a model is; with --out, the model as a folder that needs no package")
    parser.add_argument("model", type=Path, metavar="MODEL", help="a run, a Hugging Face folder or a GGUF file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="new folder")
    parser.add_argument(
        "--working", choices=("fp32", "bf16", "fp16"),
        help="format of the parameters there (default fp32, every value as it is)",
    )  # fmt: skip


def _import(arguments: Arguments) -> int:
    from qsim.importing import describe, open_model
    from qsim.post_training.files import write_unquantized
    from qsim.runs import require_new

    if arguments.out is not None:
        require_new(arguments.out)
    elif arguments.working is not None:
        raise ConfigError("--working is the format of what --out names; give both")
    model = open_model(arguments.model)
    found = describe(model)
    if arguments.out is not None:
        write_unquantized(model, arguments.working or "fp32", arguments.out)
    if arguments.json:
        to = None if arguments.out is None else str(arguments.out)
        print(strict_json.dumps(dataclasses.asdict(found) | {"to": to}, indent=1))
        return 0
    _print(found)
    if arguments.out is not None:
        print(f"wrote {arguments.out}, parameters in {arguments.working or 'fp32'}")
    return 0


def _print(found: Description) -> None:
    print(f"{found.source}: {found.architecture}, {found.parameters:,} parameters")
    config: dict[str, Any] = dataclasses.asdict(found.config)
    print(", ".join(f"{name} {value}" for name, value in config.items() if value is not None))
    print_columns([{"type": one.type, "tensors": one.tensors, "bytes": f"{one.bytes:,}"} for one in found.types])
    print(f"tokenizer: {found.tokenizer.said}")
