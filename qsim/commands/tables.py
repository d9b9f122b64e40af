"""``qsim policy``: the tables that runs are made of."""

from __future__ import annotations

import json

from qsim.commands.columns import print_columns
from qsim.commands.command import AddCommand, Arguments


def add(command: AddCommand) -> None:
    policy = command("policy", _policy, "print the resolved table of a policy")
    policy.add_argument("name", nargs="?", metavar="NAME")


def _policy(arguments: Arguments) -> int:
    from qsim.policy import POLICIES, parse_policy

    if arguments.name is None:
        print(json.dumps(list(POLICIES)) if arguments.json else "\n".join(POLICIES))
        return 0
    policy = parse_policy(arguments.name).as_json()
    if arguments.json:
        print(json.dumps(policy, indent=1))
        return 0
    print(f"{policy['name']}: parameters {policy['parameters']}, loss scaling {policy['loss_scaling']}")
    print_columns(policy["sites"])
    return 0
