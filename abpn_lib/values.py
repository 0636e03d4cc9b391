"""One number for a reader: it knows its unit, its kind and its source, and a difference of two knows them too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["Kind", "Value", "mean"]

Kind = Literal["measured", "recorded", "quoted"]
"""Measured by the run at hand, recorded by a full run and shipped, or quoted from the paper."""


@dataclass(frozen=True)
class Value:
    """A number with its unit, its kind, where it comes from, and the digits shown after its point.

    `interval` is (low, high) in the same unit. Values subtract, and are scaled by plain numbers; what comes out
    carries unit, kind and sources. A measured and a recorded one give a recorded one.

    Raises
    ------
    TypeError
        Where a quoted value meets one of ours: they stand side by side, and are never subtracted or divided.
    ValueError
        Where the units of a difference differ.
    """

    number: float
    unit: str
    kind: Kind
    source: str
    digits: int = 2
    interval: tuple[float, float] | None = None

    def __float__(self) -> float:
        return self.number

    def __neg__(self) -> Value:
        return self * -1

    def __sub__(self, other: Value) -> Value:
        kind = self._kind_with(other)
        if self.unit != other.unit:
            raise ValueError(f"a value in {self.unit!r} less one in {other.unit!r}: the units must agree")
        source = f"{self.source} less {other.source}"
        return Value(self.number - other.number, self.unit, kind, source, max(self.digits, other.digits))

    def __mul__(self, factor: float) -> Value:
        if isinstance(factor, Value):
            return NotImplemented
        ends = sorted(end * factor for end in self.interval) if self.interval else None
        return replace(self, number=self.number * factor, interval=tuple(ends) if ends else None)

    __rmul__ = __mul__

    def __truediv__(self, other: Value | float) -> Value:
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
        if (self.kind == "quoted") != (other.kind == "quoted"):
            raise TypeError("a quoted value and one of ours stand side by side: they are never subtracted or divided")
        return self.kind if self.kind == other.kind else "recorded"


def mean(values: Iterable[Value]) -> Value:
    """The plain mean of values of one unit, all quoted or all ours.

    Raises
    ------
    ValueError
        If there are none, or their units differ.
    """
    listed = list(values)
    if not listed or len({value.unit for value in listed}) > 1:
        raise ValueError("a mean needs values, and of one unit")
    total = listed[0]
    for value in listed[1:]:
        total = replace(total, kind=total._kind_with(value))
    number = sum(value.number for value in listed) / len(listed)
    source = listed[0].source if len(listed) == 1 else f"the mean of {'; '.join(value.source for value in listed)}"
    return replace(total, number=number, source=source, interval=None)
