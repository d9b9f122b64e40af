"""The arithmetic object that layers compute with: every operation goes through the policy of its site.

A ``Calculator`` joins a back end, a policy and, where wanted, a ``Recorder``.  ``calculator.at(site, pass)`` gives a
``Site``, whose operations are those of its inner arithmetic and whose ``output`` rounds once to its format.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, partial
from typing import Any

import numpy as np

from precision.formats import FP64, Format, parse_format
from precision.quantization.array import QArray
from precision.random_bits import Key, Stream, fold_in
from precision.rounding_modes import NEAREST_EVEN, Rounding
from qsim.arithmetic import Arithmetic
from qsim.delayed_scaling import Histories
from qsim.draws import OUTPUT, WRITE_BACK, for_calculator, in_layers
from qsim.executors import backend_of, refuse_identity
from qsim.faults import Fault, Planter
from qsim.identity import IdentitySite
from qsim.named_sites import NamedBackend, Names, named
from qsim.recorders import Recorder
from qsim.segments import apart, joined, length_of, sliced, with_axis
from qsim.sharding import ONE_DEVICE, Shards
from qsim.site import Site, StageSite
from qsim.site_policy import Pass, SitePolicy
from qsim.stages import Stage

Array = Any
WORKING_COPY = "working_copy"  # the scope of its roundings
Listener = Callable[[int | None, str, Array], None]


class Calculator:
    """A policy on a back end.

    With ``speculative`` a back end may compute by a faster path that is exact only under conditions on the values;
    ``proved`` then says whether they held everywhere, and a result for which they did not is to be thrown away.
    ``shards``: which part of a computation over several devices this is.  ``faults``: those of the step computed.
    ``listener``, where one is set, is told (layer, place, value): what enters each linear layer, as ``SITE.input``,
    and what each block of ``decoder_forward`` gives out, as ``block.output``; under JAX, while it is traced.
    ``hardware``: JAX computes as its device likes (``qsim.executors.on_hardware``); only roundings are exact.
    ``names``: under which a compiling back end has the operations (``qsim.named_sites``); None on others.
    Under the ``fp64`` policy every value is float64 and, as nothing is rounded, nothing is recorded.
    Errors: ValueError for that policy on a back end other than NumPy.
    """

    site_type: type[Site] = Site

    def __init__(
        self,
        policy: Arithmetic,
        backend: str,
        recorder: Recorder | None = None,
        *,
        speculative: bool = False,
        shards: Shards = ONE_DEVICE,
        faults: Sequence[Fault] = (),
        hardware: bool = False,
    ) -> None:
        refuse_identity(policy, backend)
        self.policy, self.shards, self.hardware = policy, shards, hardware
        self.recorder = None if policy.identity else recorder
        self._planter = Planter(faults) if faults else None
        self.listener: Listener | None = None
        self.proofs: list[Array] | None = [] if speculative else None
        self.backend = backend_of(backend, hardware)
        self.xp = self.backend.array_module
        scope = getattr(self.backend, "scope", None)
        self.names = None if scope is None else Names(scope)
        self.parameters = parse_format(policy.parameters)
        self._write_back = Rounding(
            mode=policy.stages.write_back.rounding, subnormals=policy.stages.write_back.subnormals
        )
        self._layer: int | None = None  # whose rows are in force, of a segment of layers that share them
        self._sites: dict[tuple[int | None, str, Pass], Site] = {}
        self._keys: dict[str, Any] = {}
        self._drawn: dict[str, int] = {}
        self.histories = Histories()  # of the step, set by whoever has its state
        self._rows = 0
        self._part: Array = 0
        self._parts = 1

    def at(self, site: str, direction: Pass) -> Site:
        key = (self._layer, site, direction)
        if key not in self._sites:
            row = self.policy.site(site, direction, self._layer)
            self._sites[key] = self._site(self.site_type, site, direction, row)
        return self._sites[key]

    def _site(self, kind: type[Site], name: str, direction: Pass, row: SitePolicy) -> Any:
        if self.policy.identity:
            return IdentitySite(row)
        plain = self.names is None or kind not in (Site, StageSite)
        return (kind if plain else named(kind))(self, name, direction, row)

    @property
    def watches_outputs(self) -> bool:
        """Whether outputs are recorded or have faults planted, so that no kernel may round them unseen."""
        return self.recorder is not None or self._planter is not None

    def flat(self, x: Array) -> Array:
        """x as the vector that kernels take; hardware arithmetic, which has none, moves no value for that."""
        return x if self.hardware else x.reshape(-1)

    def tell(self, place: str, x: Array) -> None:
        """A value on its way, to the listener if there is one."""
        if self.listener is not None:
            self.listener(self._layer, place, x)

    def planted(self, key: str, x: Array, fmt: Format) -> Array:
        """x, which ``site.pass`` of the layer in force gives out, with the faults that are planted there."""
        return x if self._planter is None else self._planter(self.backend, self._layer, key, x, fmt)

    def check_faults(self) -> None:
        """ConfigError for a fault that was not planted, once the step is computed."""
        if self._planter is not None:
            self._planter.check()

    @cached_property
    def float32(self) -> Site:
        """Float32 that flushes subnormals: norms, clipping factors, the arithmetic of the optimizer."""
        return self._site(Site, "float32", "fprop", SitePolicy(inputs="fp32", output="fp32"))

    def stage(self, name: str) -> StageSite:
        """The arithmetic of a stage: float32, its output as the stage is rounded."""
        stage: Stage = getattr(self.policy.stages, name)
        row = SitePolicy(inputs="fp32", output=stage.format, rounding=stage.rounding, subnormals=stage.subnormals)
        return self._site(StageSite, name, "fprop", row)

    @property
    def draws_by_layer(self) -> bool:
        return bool(in_layers(self._keys))

    def draw_from(self, keys: dict[str, Any] | None) -> dict[str, Any] | None:
        """Take the keys of outputs and of the write-back out of those of a step; the rest are the model's.

        To be called before each forward pass that rounds stochastically.
        """
        self._keys, rest = for_calculator(keys)
        self._drawn = {}
        return rest

    def stream(self, place: str, shape: tuple[int, ...]) -> Stream:
        """Random words for one rounding of a site.pass: of its key, the n-th child for the n-th rounding.

        shape: of what is rounded here; elements count through all parts of the batch, and all devices.
        """
        key = self._key(f"{place}{OUTPUT}")
        count = self._drawn[place] = self._drawn.get(place, -1) + 1
        return Stream(fold_in(key, count), self.shards.indices_of_output(place, shape, self._part, self._parts))

    def _key(self, name: str) -> Key:
        if name not in self._keys:
            raise ValueError(f"{name} of policy {self.policy.name} is rounded stochastically and was given no key")
        key = self._keys[name]
        return key[0], key[1]

    def scan(self, body: Callable, carry: Any, xs: Any, *, reverse: bool = False) -> tuple[Any, Any]:
        """``lax.scan`` over layers, with what is recorded in each layer kept under its number.

        Consecutive layers with the same rows are one scan; the results of several are laid end to end.
        """
        segments = self.policy.segments(length_of(xs))
        if self._planter is not None:
            segments = apart(segments, self._planter.layers())
        if len(segments) == 1:
            return self._scan_layers(body, carry, xs, segments[0], reverse)
        parts: list[Any] = []
        for first, last in reversed(segments) if reverse else segments:
            carry, ys = self._scan_layers(body, carry, sliced(xs, first, last), (first, last), reverse)
            parts.append(ys)
        return carry, joined(self.xp, parts[::-1] if reverse else parts)

    def layer(self, number: int, body: Callable, carry: Any, x: dict[str, Any]) -> tuple[Any, Any]:
        """``scan`` over one layer of the model by itself, its values x without the leading axis."""
        return self._scan_layers(body, carry, with_axis(x), (number, number + 1), False)

    def _scan_layers(
        self, body: Callable, carry: Any, xs: Any, segment: tuple[int, int], reverse: bool
    ) -> tuple[Any, Any]:
        """Over layers whose rows are the same, each with its own keys."""
        first, last = segment
        outside, self._layer = self._layer, first
        draws = {name: key[first:last] for name, key in in_layers(self._keys).items()}
        try:
            gather = partial(self.recorder.add_layers, first=first) if self.recorder else None
            kept = self.histories.in_layers(first, last)
            carry, ys, seen = self._scan(body, carry, xs, gather, reverse=reverse, draws=draws, kept=kept)
            self.histories.see_layers(self, seen, first)
            return carry, ys
        finally:
            self._layer = outside

    def in_parts(self, body: Callable, parts: int, tokens: Array, targets: Array) -> tuple[Array, dict[str, Array]]:
        """body(tokens, targets), an array and a dict of arrays (K, ...), of so many parts of a batch (B, T) in turn.

        The parts are contiguous; results are laid end to end.  What is drawn inside is by the rows' places in the
        whole batch, and what is recorded is joined.
        """
        rows = tokens.size // parts
        xs = {name: x.reshape(parts, -1, x.shape[1]) for name, x in (("tokens", tokens), ("targets", targets))}
        xs["part"] = self.xp.arange(parts, dtype=np.uint32)

        def placed(carry: Array, part: dict[str, Array]) -> tuple[Array, Any]:
            self._part = part["part"]
            return carry, body(part["tokens"], part["targets"])

        self._rows, self._parts = rows * parts, parts
        try:
            _, (first, others), seen = self._scan(
                placed, np.float32(0), xs, self.recorder.add_parts if self.recorder else None
            )
            self.histories.see_parts(self, seen)
        finally:
            self._rows, self._part, self._parts = 0, 0, 1
        return _end_to_end(first), {name: _end_to_end(x) for name, x in others.items()}

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """What is computed inside is not recorded: it has been before."""
        outside, self.recorder = self.recorder, None
        try:
            yield
        finally:
            self.recorder = outside

    def _scan(
        self,
        body: Callable,
        carry: Any,
        xs: Any,
        gather: Callable[..., None] | None,
        *,
        reverse: bool = False,
        draws: dict[str, Array] | None = None,
        kept: dict[str, Array] | None = None,
    ) -> tuple[Any, Any, dict[str, Array]]:
        """Carry, results, and what was seen of tensors with a history; ``kept``: histories by layer."""
        keys, drawn, histories = self._keys, self._drawn, self.histories

        def observed(carry: Any, x: Any) -> tuple[Any, Any]:
            outside, self.proofs = self.proofs, None if self.proofs is None else []
            self._keys, self._drawn = keys | x["draws"], {}
            self.histories = Histories(histories.kept | x["kept"])
            self.shards.begin_turns_after(carry)
            own: AbstractContextManager = self.recorder.frame() if self.recorder else nullcontext({})
            with own as frame:
                carry, y = body(carry, x["xs"])
            proved, self.proofs = self.proved(), outside
            return self.shards.after_turns(carry), (y, frame, proved, self.histories.seen)

        xs = {"xs": xs, "draws": draws or {}, "kept": kept or {}}
        start = self.shards.after_turns(carry)
        carry, (ys, frames, proved, seen) = self.backend.scan(observed, start, xs, reverse=reverse)
        self.shards.begin_turns_after(carry)
        self._keys, self._drawn, self.histories = keys, drawn, histories
        if gather is not None:
            gather(self.backend, frames, len(proved))
        if self.proofs is not None:
            self.proofs.append(proved.all())
        return carry, ys, seen

    def proved(self) -> Array:
        """Whether every product so far was exact; true where nothing was speculated."""
        return self.xp.all(self.xp.asarray([True, *(self.proofs or [])]))

    def working_copy(self, kept: dict[str, Array]) -> dict[str, Array]:
        """The parameters in the policy's working format: rounded from a master, or as the write-back left them."""
        return {name: self._round_parameter(name, w) for name, w in kept.items()}

    def _round_parameter(self, name: str, w: Array) -> Array:
        if isinstance(w, QArray):
            raise ValueError(f"{name} is quantized; compute with qsim.post_training.calculator_for")
        how = self._write_back if self.policy.has_master else NEAREST_EVEN
        rounded = self._round(w, how)
        if self.recorder is not None:
            block, site = name.startswith("blocks."), name.removeprefix("blocks.").partition(".")[0]
            record = self.recorder.record_layers if block else self.recorder.record
            record(self.backend, self.shards.weights_key(site, name), w, rounded, self.parameters)
        return rounded

    def as_cached(self, name: str, x: Array) -> dict[str, Array]:
        """Keys or values (B H, T, d) of attention as a cache holds them, by that name."""
        return {name: x}

    def attended(self, name: str, cached: dict[str, Array]) -> Array:
        """What is attended to of what ``as_cached`` gave."""
        return cached[name]

    def updated(self, parameters: dict[str, Array]) -> dict[str, Array]:
        """Parameters by name, float32 out of their update, as they are kept."""
        if self.policy.has_master:
            return {name: self.stage("master").output(w) for name, w in parameters.items()}
        if self._write_back.stochastic:
            return self._written_back(parameters)
        plain = self.policy.parameters == "fp32" and self._write_back == NEAREST_EVEN
        return parameters if plain else {name: self._round(w, self._write_back) for name, w in parameters.items()}

    def _written_back(self, parameters: dict[str, Array]) -> dict[str, Array]:
        """Rounded stochastically, each element by the word of its place in the whole of its parameter."""
        streams = [
            Stream(self._key(f"{WRITE_BACK}{name}"), self.shards.places(name, w.shape))
            for name, w in parameters.items()
        ]
        rounded = self.backend.round_each(list(parameters.values()), self.parameters, self._write_back, streams)
        return dict(zip(parameters, rounded, strict=True))

    def _round(self, w: Array, how: Rounding) -> Array:
        if self.parameters is FP64:
            return self.xp.asarray(w, np.float64)
        backend = self.backend if self.names is None else NamedBackend(self.backend, self.names, WORKING_COPY)
        return backend.round_to(w, self.parameters, *([] if how == NEAREST_EVEN else [how]))

    def random_words(self, key: Any, shape: tuple[int, ...]) -> Array:
        """One uint32 an element of rows (N, n), that of its index in the whole batch."""
        return self.backend.random_words((key[0], key[1]), shape, self.first_index(shape))

    def first_index(self, shape: tuple[int, ...]) -> Array:
        """Row-major index, in the whole batch, of the first element of an array (..., n) of this part's rows."""
        *leading, width = shape
        here = self._rows or math.prod(leading)  # rows of all parts that this device computes
        rows = here * self.shards.data
        if (rows > math.prod(leading) or self.shards.count > 1) and rows * width > 1 << 32:
            raise ValueError(
                f"{rows} rows of {width} values outgrow the 32 bits that number the draws of a batch in parts; "
                "use data.accumulation 1 on one device, or smaller batches"
            )
        if rows == math.prod(leading):
            return 0
        return self.shards.place_in_batch(self._part, self._parts) * np.uint32(here // self._parts * width)

    def indices(self, shape: tuple[int, ...], *, own_columns: bool) -> Array:
        """The same, or the index of every element where the array has the columns of this device alone."""
        if not own_columns or self.shards.model == 1:
            return self.first_index(shape)
        whole = (*shape[:-1], shape[-1] * self.shards.model)
        places = self.xp.arange(math.prod(whole), dtype=np.uint32).reshape(whole)
        return self.shards.own_columns(places + self.first_index(whole))


def _end_to_end(x: Array) -> Array:
    """(A, K, ...) -> (A K, ...)."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
