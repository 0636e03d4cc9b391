"""One number for a reader: it knows its unit, its kind and its source, and a difference of two knows them too."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["measured", "recorded", "estimated", "quoted"]
"""Measured by this run, recorded by a full run and shipped, estimated by a compiler, or quoted from the paper."""

MARKS: Mapping[Kind, tuple[str, str, str]] = {
    "quoted": ("“", "”", "quoted from the paper"), "recorded": ("● ", "", "recorded full run"),
    "measured": ("■ ", "", "measured in this run"), "estimated": ("◇ ", "", "estimated by a compiler"),
}
"""What stands before and after a number of each kind, wherever it is shown, and what that means."""


@dataclass(frozen=True)
class Value:
    """A number with its unit, its kind, where it comes from, and the digits shown after its point.

    `interval` is (low, high) in the same unit. Values subtract, and are scaled by plain numbers; what comes out
    carries unit, kind and sources. A measured and a recorded one give a recorded one. With a missing value (NaN, as
    pandas writes it) everything is missing. Other kinds stand side by side, and are never subtracted or divided (a
    TypeError); the units of a difference must agree (a ValueError).
    """

    number: float
    unit: str
    kind: Kind
    source: str
    digits: int = 2
    interval: tuple[float, float] | None = None

    def __float__(self) -> float:
        return float(self.number)

    def __str__(self) -> str:
        before, after, _ = MARKS[self.kind]
        return before + f"{self.number:,.{self.digits}f} {self._unit}".strip() + after

    @property
    def span(self) -> str:
        """The interval in words, such as "36.5 to 37.1 ms", with this value's digits; "" where there is none."""
        if not self.interval:
            return ""
        low, high = (f"{end:,.{self.digits}f}" for end in self.interval)
        return f"{low} to {high} {self._unit}".strip()

    @property
    def _unit(self) -> str:
        return "" if self.unit == "1" else self.unit

    def __neg__(self) -> Value:
        return self * -1

    def __sub__(self, other: Any) -> Any:
        if is_missing(other):
            return math.nan
        kind = self._kind_with(other)
        if self.unit != other.unit:
            raise ValueError(f"a value in {self.unit!r} less one in {other.unit!r}: the units must agree")
        source = f"{self.source} less {other.source}"
        return Value(self.number - other.number, self.unit, kind, source, max(self.digits, other.digits))

    def __mul__(self, factor: Any) -> Value:
        if isinstance(factor, Value):
            return NotImplemented
        low, high = sorted(end * factor for end in self.interval or (self.number, self.number))
        return replace(self, number=self.number * factor, interval=(low, high) if self.interval else None)

    __rmul__ = __mul__

    def __rsub__(self, other: Any) -> Any:
        return math.nan if is_missing(other) else NotImplemented

    __rtruediv__ = __rsub__

    def __truediv__(self, other: Any) -> Any:
        if is_missing(other):
            return math.nan
        if not isinstance(other, Value):
            return self * (1 / other)
        unit = "" if self.unit == other.unit else f"{self.unit}/{other.unit}"
        source = f"{self.source} over {other.source}"
        return Value(self.number / other.number, unit, self._kind_with(other), source, self.digits)

    def in_unit(self, unit: str, factor: float, digits: int | None = None) -> Value:
        """The same quantity in another unit, of which one of ours is `factor`: ``v.in_unit("K", 1e-3)``."""
        return replace(self * factor, unit=unit, digits=self.digits if digits is None else digits)

    def rounded(self, digits: int) -> Value:
        """The same value, shown with so many digits after its point."""
        return replace(self, digits=digits)

    def _kind_with(self, other: Value) -> Kind:
        if not isinstance(other, Value):
            raise TypeError(f"a value and the bare number {other!r} are not of one kind")
        if self.kind != other.kind and {self.kind, other.kind} != {"measured", "recorded"}:
            kinds = f"{self.kind} and {other.kind} values"
            raise TypeError(f"{kinds} stand side by side: they are never subtracted or divided, nor averaged")
        return self.kind if self.kind == other.kind else "recorded"


def is_missing(cell: object) -> bool:
    """Whether a cell of a table has no value: None or NaN, which pandas writes for it."""
    return cell is None or cell != cell


def mean(values: Iterable[Value]) -> Value:
    """The plain mean of values of one unit, all quoted or all ours; a ValueError where there are none."""
    listed = list(values)
    if len({value.unit for value in listed}) != 1:
        raise ValueError("a mean needs values, and of one unit")
    total = functools.reduce(lambda one, other: replace(one, kind=one._kind_with(other)), listed)
    number = sum(value.number for value in listed) / len(listed)
    source = listed[0].source if len(listed) == 1 else f"the mean of {'; '.join(value.source for value in listed)}"
    return replace(total, number=number, source=source, interval=None)
