"""Ordered rules: a policy changed site by site, later rules prevailing."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from qsim.arithmetic import Arithmetic
from qsim.policies import parse_policy
from qsim.site_policy import WHOLE_MODEL_SITES, Pass, SitePolicy
from qsim.stages import STAGES, Stages

Rule = tuple[str, str | Mapping[str, Any]]
Change = str | Mapping[str, Any]


def override(
    policy: Arithmetic, rules: Sequence[Rule], *, layers: int | None = None, name: str | None = None
) -> Arithmetic:
    """The policy under rules (pattern, value), applied in order.

    pattern: as in ``fnmatch``, of ``site.pass`` (every layer), of ``layer.N.site.pass`` (one), or, where no site
    matches, of a stage.
    value: name of a policy, whose row of that place is taken; or fields to change.  ``accumulator`` changes the
    rows that have one.
    layers: how many the model has; without it a pattern of one layer names it by number, as in ``layer.3.*``.
    The result is called ``name``, or as the policy with ``-rules`` behind.
    Errors: ValueError for a pattern that matches nothing, an unknown policy or field, a value that is not offered.
    """
    table = _Table(policy, layers)
    for pattern, change in rules:
        table.apply(pattern, change)
    return table.result(name or f"{policy.name}-rules")


class _Table:
    """Rows of a policy on their way to another."""

    def __init__(self, policy: Arithmetic, layers: int | None) -> None:
        self.policy, self.layers, self.stages = policy, layers, policy.stages
        self.rows: dict[tuple[str, Pass], SitePolicy] = {(site, p): row for site, p, row in policy.sites}
        self.own: dict[tuple[int, str, Pass], SitePolicy] = {(i, s, p): row for i, s, p, row in policy.layers}

    def result(self, name: str) -> Arithmetic:
        own = {key: row for key, row in self.own.items() if row != self.rows[key[1:]]}
        order = list(self.rows)
        places = sorted(own, key=lambda key: (key[0], order.index(key[1:])))
        return dataclasses.replace(
            self.policy,
            name=name,
            sites=tuple((site, p, row) for (site, p), row in self.rows.items()),
            stages=self.stages,
            layers=tuple((*key, own[key]) for key in places),
        )

    def apply(self, pattern: str, change: Change) -> None:
        everywhere = [key for key in self.rows if fnmatchcase(f"{key[0]}.{key[1]}", pattern)]
        single = [] if everywhere else self._of_layers(pattern)
        if not everywhere and not single:
            self._apply_to_stages(pattern, change)
            return
        found = self._changed([self.rows[key] for key in everywhere], everywhere, pattern, change)
        self.rows |= dict(zip(everywhere, found, strict=True))
        layered = [key for key in self.own if key[1:] in everywhere] + single
        before = [self.own.get(key, self.rows[key[1:]]) for key in layered]
        places = [key[1:] for key in layered]
        self.own |= dict(zip(layered, self._changed(before, places, pattern, change), strict=True))

    def _of_layers(self, pattern: str) -> list[tuple[int, str, Pass]]:
        """Places of single layers that the pattern matches."""
        if not pattern.startswith("layer."):
            return []
        named = re.match(r"layer\.(\d+)\.", pattern)
        if self.layers is None and named is None:
            raise ValueError(
                f"rule {pattern!r} names layers by a pattern; say how many layers there are, or a number"
            )
        numbers = range(self.layers) if self.layers is not None else [int(named[1])] if named else []
        return [
            (i, site, p)
            for i in numbers
            for site, p in self.rows
            if site not in WHOLE_MODEL_SITES and fnmatchcase(f"layer.{i}.{site}.{p}", pattern)
        ]

    def _changed(
        self, rows: list[SitePolicy], places: list[tuple[str, Pass]], pattern: str, change: Change
    ) -> list[SitePolicy]:
        if isinstance(change, str):
            preset = parse_policy(change)
            return [preset.site(*place) for place in places]
        fields = dict(change)
        _refuse_unknown(fields, SitePolicy, pattern)
        if "accumulator" in fields and rows and not any(row.accumulator for row in rows):
            raise ValueError(f"rule {pattern!r} changes an accumulator where nothing is multiplied; leave it out")
        return [
            dataclasses.replace(row, **{k: v for k, v in fields.items() if k != "accumulator" or row.accumulator})
            for row in rows
        ]

    def _apply_to_stages(self, pattern: str, change: Change) -> None:
        names = [name for name in STAGES if fnmatchcase(name, pattern)]
        if not names:
            where = "" if self.layers is None else f" in {self.layers} layers"
            raise ValueError(
                f"rule {pattern!r} matches no site and pass{where} and no stage; "
                f"write site.pass, layer.N.site.pass, or one of {', '.join(STAGES)}"
            )
        other = parse_policy(change).stages if isinstance(change, str) else None
        new = {name: self._stage(name, pattern, change, other) for name in names}
        self.stages = dataclasses.replace(self.stages, **new)

    def _stage(self, name: str, pattern: str, change: Change, other: Stages | None) -> Any:
        before = getattr(self.stages, name)
        if other is not None or isinstance(change, str):
            return getattr(other, name)
        fields = dict(change)
        _refuse_unknown(fields, type(before), pattern)
        return dataclasses.replace(before, **fields)


def _refuse_unknown(fields: dict[str, Any], record: type, pattern: str) -> None:
    known = [field.name for field in dataclasses.fields(record)]
    unknown = [name for name in fields if name not in known]
    if unknown or not fields:
        what = f"changes unknown field {unknown[0]!r}" if unknown else "changes nothing"
        raise ValueError(f"rule {pattern!r} {what}; fields: {', '.join(known)}")
