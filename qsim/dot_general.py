"""The matrix products of a policy as a ``dot_general``: a policy's arithmetic inside somebody else's model."""

from __future__ import annotations

from precision.dot_general import DotGeneral
from precision.passes import Gemm
from qsim.policy import GEMM_SITES, PASSES, Arithmetic, Pass, parse_policy


def for_policy(policy: str | Arithmetic, site: str | None = None) -> DotGeneral:
    """The ``dot_general`` of a GEMM site: formats and accumulators of its fprop, dgrad and wgrad from the policy.

    Without a ``site``, the one that all GEMM sites of the policy share.  Gradients of weights are one sum over all
    rows, as with one reduction chunk; parameters and moments, loss scaling and everything between products are the
    model's own.
    Exactness: the bits of the site, forward and backward.  A site that rounds gradients stochastically takes ``key``.
    Errors: ValueError for an unknown policy, a site that has no matrix product, or none named where they differ; for
    scaled operands, flushed or stochastically rounded outputs.  Rows of single layers do not count.
    Example: ``flax.linen.Dense(256, dot_general=for_policy("bf16", "mlp_up"))``.
    """
    policy = parse_policy(policy)
    if site is not None:
        return _of_site(policy, site)
    first = _of_site(policy, GEMM_SITES[0])
    other = [name for name in GEMM_SITES if _of_site(policy, name) != first]
    if other:
        raise ValueError(
            f"policy {policy.name} computes {GEMM_SITES[0]} and {other[0]} differently; "
            f"name one site of {', '.join(GEMM_SITES)}"
        )
    return first


def _of_site(policy: Arithmetic, site: str) -> DotGeneral:
    if site not in GEMM_SITES:
        raise ValueError(f"site {site!r} has no matrix product; choose one of {', '.join(GEMM_SITES)}")
    return DotGeneral(**{direction: _gemm(policy, site, direction) for direction in PASSES})


def _gemm(policy: Arithmetic, site: str, direction: Pass) -> Gemm:
    row = policy.site(site, direction)
    if row.scaling != "none" or (row.rounding, row.subnormals) != ("nearest_even", "keep"):
        what = (
            "scales its operands" if row.scaling != "none" else "rounds its output another way than to nearest even"
        )
        raise ValueError(
            f"{site}.{direction} of policy {policy.name} {what}; a dot_general does not, so name another"
        )
    return Gemm(
        inputs=row.operands(direction),
        accumulator=row.accumulator or "",
        output=row.output,
        quantization=row.scheme(direction),
    )
