"""A policy taken apart into units that can be swapped for another policy's, one at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from qsim.arithmetic import Arithmetic, LayerRow
from qsim.site_policy import WHOLE_MODEL_SITES, Pass, SitePolicy
from qsim.stages import STAGES

By = Literal["site", "pass", "layer", "place"]
Row = tuple[str, Pass]
PARAMETERS = "parameters"
# fields of a site's row by what they round; a product and its sum are one thing, the accumulator says how both round
PARTS: dict[str, tuple[str, ...]] = {
    "input": ("inputs", "gradient_inputs", "scaling", "block"),
    "accumulator": ("accumulator",),
    "inner": ("inner", "sums"),
    "output": ("output", "rounding", "subnormals"),
    "quantizer": ("quantization", "gradient_rounding"),
}
# the quantizer in two other ways, beside its own cost: what is lost to one scale a tensor, and to outlier columns
VECTORWISE, ALTERNATIVES = "int8_vectorwise", {"one scale": "int8_tensorwise", "outliers apart": "llm_int8"}


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Something of a policy that is swapped as one.

    name: as it is printed.  places: (layer, site, pass) whose rows it has.  part: of these rows, a key of ``PARTS``,
    all of them where None.  scheme: in place of the other policy's ``int8_vectorwise``.
    stage: one of ``qsim.stages.STAGES`` or ``parameters``, the format of the working copy; then there are no places.
    """

    name: str
    places: frozenset[tuple[int, str, Pass]] = frozenset()
    part: str | None = None
    scheme: str | None = None
    stage: str | None = None


def units(base: Arithmetic, other: Arithmetic, layers: int, by: By = "site") -> list[Unit]:
    """What the two policies do differently, in the order of sites and stages.

    by: ``site`` (all passes and layers), ``pass`` (site.pass), ``layer`` (layer.N, and the sites that the model has
    once), ``place`` (layer.N.site).  Stages, and the format of the working copy, are a unit each.
    """
    groups: dict[str, set[tuple[int, str, Pass]]] = {}
    for layer, site, direction in _places(base, layers):
        if base.site(site, direction, layer) != other.site(site, direction, layer):
            groups.setdefault(_name(by, layer, site, direction), set()).add((layer, site, direction))
    found = [Unit(name=name, places=frozenset(places)) for name, places in groups.items()]
    if base.parameters != other.parameters:
        found.append(Unit(name=PARAMETERS, stage=PARAMETERS))
    differing = [stage for stage in STAGES if getattr(base.stages, stage) != getattr(other.stages, stage)]
    return found + [Unit(name=stage, stage=stage) for stage in differing]


def parts(unit: Unit, base: Arithmetic, other: Arithmetic) -> list[Unit]:
    """A unit of rows by what they round: those of ``PARTS`` in which the policies differ there.

    Of vector-wise INT8 also the quantizer with one scale a tensor, and with outlier columns in fp16: the latter less
    than the quantizer costs is what outlier columns cost.
    """
    found = []
    for part, fields in PARTS.items():
        pairs = [(base.site(s, p, i), other.site(s, p, i)) for i, s, p in unit.places]
        if any(getattr(a, field) != getattr(b, field) for a, b in pairs for field in fields):
            found.append(dataclasses.replace(unit, name=f"{unit.name}: {part}", part=part))
    if all(other.site(s, p, i).quantization in (None, VECTORWISE) for i, s, p in unit.places):
        quantizers = [one for one in found if one.part == "quantizer"]
        found += [
            dataclasses.replace(one, name=f"{one.name}, {words}", scheme=scheme)
            for one in quantizers
            for words, scheme in ALTERNATIVES.items()
        ]
    return found


def hybrid(base: Arithmetic, other: Arithmetic, swapped: Collection[Unit], layers: int, name: str) -> Arithmetic:
    """The base policy with these units as the other has them; the loss scaling is the other's.

    A loss scale is a power of two and changes no bit of what neither underflows nor overflows.
    """
    rows = {place: base.site(place[1], place[2], place[0]) for place in _places(base, layers)}
    for unit in swapped:
        for place in unit.places:
            rows[place] = _swapped(rows[place], other.site(place[1], place[2], place[0]), unit)
    stages = {unit.stage: getattr(other.stages, unit.stage) for unit in swapped if unit.stage in STAGES}
    parameters = other if any(unit.stage == PARAMETERS for unit in swapped) else base
    sites, own = _compressed(base, rows)
    return dataclasses.replace(
        base,
        name=name,
        sites=sites,
        layers=own,
        parameters=parameters.parameters,
        stages=dataclasses.replace(base.stages, **stages),
        loss_scaling=other.loss_scaling,
    )


def _places(policy: Arithmetic, layers: int) -> Iterator[tuple[int, str, Pass]]:
    """(layer, site, pass); layer 0 stands for the model where it has a site once."""
    for site, direction, _ in policy.sites:
        for layer in range(1 if site in WHOLE_MODEL_SITES else layers):
            yield layer, site, direction


def _name(by: By, layer: int, site: str, direction: Pass) -> str:
    if by not in get_args(By):
        raise ValueError(f"--by {by} is not offered; {', '.join(get_args(By))} are")
    once = site in WHOLE_MODEL_SITES
    names: dict[str, Callable[[], str]] = {
        "site": lambda: site,
        "pass": lambda: f"{site}.{direction}",
        "layer": lambda: site if once else f"layer.{layer}",
        "place": lambda: site if once else f"layer.{layer}.{site}",
    }
    return names[by]()


def _swapped(row: SitePolicy, other: SitePolicy, unit: Unit) -> SitePolicy:
    if unit.part is None:
        return other
    fields = {field: getattr(other, field) for field in PARTS[unit.part]}
    if unit.scheme is not None and other.quantization is not None:
        fields |= {"quantization": unit.scheme, "gradient_rounding": "nearest_even"}
    return dataclasses.replace(row, **fields)


def _compressed(
    base: Arithmetic, rows: dict[tuple[int, str, Pass], SitePolicy]
) -> tuple[tuple[tuple[str, Pass, SitePolicy], ...], tuple[LayerRow, ...]]:
    """Rows of every layer as those of all layers, and the rows of single layers that differ from them."""
    sites = tuple((site, direction, rows[0, site, direction]) for site, direction, _ in base.sites)
    own = tuple((i, s, p, row) for (i, s, p), row in rows.items() if row != rows[0, s, p])
    order = {(site, direction): i for i, (site, direction, _) in enumerate(sites)}
    return sites, tuple(sorted(own, key=lambda one: (one[0], order[one[1], one[2]])))
