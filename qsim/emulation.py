"""Any JAX function under a policy: its jaxpr evaluated with the policy's roundings, accumulators and counters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import wraps
from typing import Any

from precision.backends import get_backend, is_concrete
from precision.format import Format
from precision.statistics import Statistics
from qsim.emulated_sites import CountingRecorder, EmulatingCalculator
from qsim.policy import SITES, Arithmetic, Pass, SitePolicy, parse_policy

Array = Any


def emulate(
    fn: Callable,
    policy: str | Arithmetic,
    *,
    sites: Mapping[str, str] | None = None,
    default: SitePolicy | None = None,
    counters: bool = False,
) -> Callable:
    """``fn`` as it would compute in a policy's arithmetic; a jitted function of the same arguments.

        emulate(fn, "fp16")(*args)                      the result
        emulate(fn, "fp16", counters=True)(*args)       (result, {"site.pass": Statistics}), outside ``jit``
        emulate(jax.grad(fn), "fp16")(*args)            of its gradient

    Sites: an equation belongs to the innermost ``jax.named_scope`` that is a site of the policy (``qkv``,
    ``softmax``, ...), or that ``sites`` maps to one: its patterns are matched by ``fnmatch``, in order, with the
    names of the scopes around the equation, joined by "/".  Inside a scope arithmetic is the site's ``inner``,
    constants rounded to it; a value that leaves, because an equation of another scope, a product or the caller reads
    it, or because the scope was interrupted, is rounded once to the site's ``output`` and counted.  A product of
    matrices rounds its operands to ``inputs``, sums by the accumulator and rounds to ``output``.  Outside every scope
    each operation is rounded to the ``output`` of ``default``: the policy's ``residual``, its products as all GEMM
    sites have them.  What moves values, or turns signs, rounds nothing; nor does the entry: inputs and parameters are
    as they come.

    Gradients: equations that ``jax.grad`` transposed are of ``dgrad``; a product of a gradient with anything but a
    weight is of ``wgrad``, where the site multiplied by a weight before.  Weights are constant arrays, and what comes
    of the first argument by moves alone; so give data as another argument.  Backward passes read what their own site
    kept for them unrounded, unless it had left before.  A weight's gradient is one sum over all rows, with no
    reduction chunks; there is no loss scale.  What is rematerialised is of ``fprop``, and counted again.

    Arithmetic: float32 that flushes subnormals, sums by the tree over neighbours (several axes as one, row-major),
    maxima with +0 above -0, exp, log, tanh, erf and rsqrt of the project, 1 - erf for erfc, 1 / (1 + e^-x) for the
    logistic function; tables of the inner format where that has 16 bits, also for exp2, sin and cos, and
    ``jax.nn.gelu(x, approximate=False)`` as ``Site.gelu`` has it (``jax.grad`` takes it apart, and then it is
    computed in steps).  Powers: integers by squares, 1/2 and -1/2.  Scattered sums row after row in float32.  A
    function's own narrower dtypes stay: their results are rounded to them as well.  Loops and branches stay what they
    are, rematerialisation saves no memory, and draws of ``jax.random`` are not of the policy.

    Exactness: bit-identical on every device, accumulator ``native`` apart.  Under ``fp32`` a function that adds,
    subtracts, multiplies, divides, takes square roots and maxima, moves, selects and compares has the bits that XLA
    on a CPU gives operation by operation (``jax.disable_jit``), quotients by a broadcast value apart: fused, XLA
    contracts a b + c.  A sum or product of more than two terms has the project's order, a transcendental function the
    project's last bit.
    Arguments: pytrees of arrays, as ``jax.jit`` has them.
    Errors: ValueError for an unknown policy or site, rows of single layers, a site without accumulator that
    multiplies matrices, and stochastic rounding; NotImplementedError for a primitive that has no arithmetic here (its
    name, its scope and what to do), and for counters of a while loop; TypeError for float64 and for the derivative of
    an emulated function.
    """
    policy = parse_policy(policy)
    _check(policy, sites or {})
    backend, formats = get_backend("jax"), dict[str, Format]()

    def emulated(args: tuple, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        recorder = CountingRecorder(backend) if counters else None
        rule = Emulation(EmulatingCalculator(policy, recorder, default), sites or {})
        result = backend.interpret(fn, rule, recorder, args, kwargs)
        formats.update(recorder.formats if recorder else {})
        return result, recorder.results(backend) if recorder else {}

    run = backend.jit(emulated)

    @wraps(fn)
    def called(*args: Any, **kwargs: Any) -> Any:
        result, counts = run(args, kwargs)
        return (result, _statistics(counts, formats)) if counters else result

    return called


class Emulation:
    """The arithmetic of every place of a function, as ``precision.backends.jax_.interpreted_values.Rule`` has it."""

    def __init__(self, calculator: EmulatingCalculator, patterns: Mapping[str, str]) -> None:
        self._calculator, self._patterns = calculator, patterns
        self._with_weights: set[str | None] = set()  # sites whose forward products had a weight

    def site(self, names: Sequence[str]) -> str | None:
        """Of the innermost scope that has one."""
        for length in range(len(names), 0, -1):
            path = "/".join(names[:length])
            found = next((site for pattern, site in self._patterns.items() if fnmatchcase(path, pattern)), None)
            if found is not None or names[length - 1] in SITES:
                return found or names[length - 1]
        return None

    def compute(
        self, place: Any, primitive: str, operands: list[Array], constant: list[bool], params: dict[str, Any]
    ) -> Array | None:
        return self._at(place).compute(primitive, operands, constant, params)

    def product(self, place: Any, lhs: Any, rhs: Any, params: dict[str, Any]) -> Array:
        """As the policy has its operands: x and the weight, dy and the weight in dgrad, x and dy in wgrad."""
        site, numbers = self._of(place.site, self._pass_of(place, lhs, rhs)), params["dimension_numbers"]
        if not place.backward:
            return site.product(lhs.array, rhs.array, numbers, turned=lhs.weight and not rhs.weight)
        gradient_first = not _gradient_is_second(lhs, rhs)
        return site.product(lhs.array, rhs.array, numbers, turned=gradient_first == (site.direction == "wgrad"))

    def _pass_of(self, place: Any, lhs: Any, rhs: Any) -> Pass:
        if not place.backward:
            if lhs.weight or rhs.weight:
                self._with_weights.add(place.site)
            return "fprop"
        kept = lhs if _gradient_is_second(lhs, rhs) else rhs
        return "wgrad" if place.site in self._with_weights and not kept.weight else "dgrad"

    def gelu(self, place: Any, x: Array) -> Array:
        return self._at(place).gelu(x)

    def leave(self, place: Any, x: Array) -> Array:
        return self._at(place).output(x)

    def _at(self, place: Any) -> Any:
        return self._of(place.site, "dgrad" if place.backward else "fprop")

    def _of(self, site: str | None, direction: Pass) -> Any:
        calculator = self._calculator
        return calculator.outside(direction) if site is None else calculator.at(site, direction)


def _gradient_is_second(lhs: Any, rhs: Any) -> bool:
    """Of the operands of a product of the backward pass; JAX puts it first."""
    return rhs.gradient and not lhs.gradient


def _check(policy: Arithmetic, sites: Mapping[str, str]) -> None:
    for pattern, site in sites.items():
        if site not in SITES:
            raise ValueError(
                f"sites maps {pattern!r} to {site!r}, which is no site; choose one of {', '.join(SITES)}"
            )
    if policy.layers:
        raise ValueError(
            f"policy {policy.name} has rows of single layers, which a function does not number; leave them out"
        )


def _statistics(counts: dict[str, Any], formats: Mapping[str, Format]) -> dict[str, Statistics]:
    if not all(is_concrete(total) for total, *_ in counts.values()):
        raise TypeError(
            "counters are read from values, which a traced call has not got; call emulate(..., counters=True) "
            "outside jit, as it compiles itself"
        )
    return {
        key: Statistics.from_counts(formats[key], total, events, exponents)
        for key, (total, events, exponents) in counts.items()
    }
