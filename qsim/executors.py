"""What computes a policy: its executor, and whether that may compute as its device likes."""

from __future__ import annotations

from typing import Any

from precision.backends import HARDWARE, get_backend
from qsim.arithmetic import Arithmetic


def refuse_identity(policy: Arithmetic, backend: str) -> None:
    """ValueError for float64 on a back end that has none."""
    if policy.identity and backend != "numpy":
        raise ValueError(f"policy {policy.name} is float64 on NumPy alone, not on {backend}; use --executor numpy")


def on_hardware(policy: Arithmetic, executor: str, asked: bool | None = None) -> bool:
    """Whether a run computes in the device's own float32 arithmetic (``precision.backends.jax_.hardware``).

    Where the policy promises no bits and JAX computes on anything but a CPU, unless asked: True has it on a CPU too,
    False nowhere.
    Errors: ValueError where it is asked of a policy that promises bits, or of another executor.
    """
    possible = executor == "jax" and not policy.promises_bits
    if asked and not possible:
        why = f"policy {policy.name} promises bits" if policy.promises_bits else f"executor {executor} is not JAX"
        raise ValueError(f"{why}, so that it does not compute in hardware arithmetic; use native-bf16 on jax")
    if not possible or asked is not None:
        return bool(asked)
    return get_backend("jax").devices.platform() != "cpu"


def backend_of(executor: str, hardware: bool) -> Any:
    """The back end of an executor, or the hardware arithmetic of JAX."""
    return get_backend(HARDWARE if hardware else executor)


def hardware_in_words(policy: Arithmetic, executor: str) -> dict[str, str]:
    """What a run's record says of hardware arithmetic: nothing where there is none."""
    if not on_hardware(policy, executor):
        return {}
    return {"arithmetic": f"native arithmetic of {get_backend('jax').devices.platform()}"}
