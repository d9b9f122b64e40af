"""``qsim policy``: the tables that runs are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from qsim.commands.columns import print_columns
from qsim.commands.command import AddCommand, Arguments
from qsim.commands.options import add_rule, ruled

_ALWAYS = ("layer", "site", "pass", "inputs", "output", "inner", "accumulator")


def add(command: AddCommand) -> None:
    policy = command("policy", _policy, "print the resolved table of a policy")
    policy.add_argument(
        "name", nargs="?", metavar="NAME", help="listed without it; or <bf16|fp16|tf32>-<accumulator>"
    )
    add_rule(policy)


def _policy(arguments: Arguments) -> int:
    from qsim.policy import POLICIES, parse_policy

    if arguments.name is None:
        print(json.dumps(list(POLICIES)) if arguments.json else "\n".join(POLICIES))
        return 0
    policy = ruled(parse_policy(arguments.name), arguments.rules)
    table = policy.as_json()
    if arguments.json:
        print(json.dumps(table, indent=1))
        return 0
    promise = "" if policy.promises_bits else ", hashes: none promised"
    print(f"{table['name']}: parameters {table['parameters']}, loss scaling {table['loss_scaling']}{promise}")
    print_columns(_telling(table["sites"]))
    if "layers" in table:
        print_columns(_telling(table["layers"]))
    print_columns(table["stages"])
    return 0


def _telling(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the columns in which all stand at what a site has by itself."""
    from qsim.policy import SitePolicy

    usual = vars(SitePolicy(inputs="fp32", output="fp32"))
    columns = [name for name in rows[0] if name in _ALWAYS or any(row[name] != usual[name] for row in rows)]
    return [{name: row[name] for name in columns} for row in rows]
