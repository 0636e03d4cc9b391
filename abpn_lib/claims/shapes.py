"""The shapes that a rule can have. Each makes its own text from the numbers that its code uses.

- `Difference`, `Ratio`: a number in a range (the paper's dB are on DIV2K validation, ours on other images, so gaps are
  compared, never the values themselves; the paper's milliseconds are an NPU's or a phone's, so ratios are).
- `Slower`, `Place`: an order; two medians whose intervals overlap are not ordered.
- `Count`: a value that must agree in every digit.
- `Recipe`: a description of what the authors did, which no measurement refutes.
- `Npus`: one of these on several NPUs, as a compiler estimates them.
- `Both`: two halves of these. `Own`: a rule with code of its own. `Untestable`: none at all.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple

from abpn_lib.claims.evidence import Absent, Evidence, clearly_above, milliseconds, size_of
from abpn_lib.results import Record

Verdict = Literal["reproduced", "partly", "not reproduced", "not testable here"]
Compared = Literal["a value", "a difference", "an ordering", "a ratio", "arithmetic", "a description"]

SIGNS: Mapping[Verdict, str] = {"reproduced": "✓", "partly": "◐", "not reproduced": "✗", "not testable here": "–"}
"""What stands before each verdict, so that colour is never the only difference."""

NOT_DIV2K = "Our images are not DIV2K's, so only the difference is compared."
THIS_MACHINE = "Another device than the paper's: the comparison holds for the machine that was timed."


@dataclass(frozen=True)
class Judgement:
    """What the records say of a claim: the verdict, what was measured in words, from which records, and why."""

    verdict: Verdict
    measured: str
    records: tuple[Record, ...] = ()
    why: str = ""

    @property
    def device(self) -> str:
        """The kind of device whose times decided: "NPUs, estimated", or "a CPU"; "" where no time did."""
        if any(record.kind == "estimated" for record in self.records):
            return "NPUs, estimated"
        return "a CPU" if any(record.quantity == "latency" for record in self.records) else ""


def verdict_of(good: bool, fair: bool, otherwise: Verdict = "not reproduced") -> Verdict:
    """The verdict of a rule that holds (`good`), holds in part (`fair`), or neither."""
    return "reproduced" if good else "partly" if fair else otherwise


class Rule:
    """A rule that was fixed before its value was looked at."""

    compared: Compared = "a value"

    # A shape has these: its text, and what the records say (or `Absent`).
    def _words(self) -> str:
        raise NotImplementedError

    def _find(self, evidence: Evidence) -> Judgement:
        raise NotImplementedError

    @property
    def text(self) -> str:
        """The rule in words."""
        return self._words()

    def judge(self, evidence: Evidence) -> Judgement:
        """The verdict; "not testable here" where a record is missing."""
        try:
            return self._find(evidence)
        except Absent as absent:
            text = str(absent)
            return Judgement("not testable here", "", (), f"{text[0].upper()}{text[1:]}.")


class Range(NamedTuple):
    """From `low` to `high`, both held."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether a value lies in it."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"at least {self.low:.3g}"
        return f"at most {self.high:g}" if self.low in (0, -math.inf) else f"{self.low:.3g} to {self.high:.3g}"


@dataclass(frozen=True)
class _InRange(Rule):
    """A number of some models or nodes over or less others; `absent` says why there may be no record of it."""

    what: str
    above: tuple[str, ...]
    below: tuple[str, ...]
    good: Range
    fair: Range | None = None
    absent: str = ""
    why: str = ""
    unit: ClassVar[str] = ""

    def _words(self) -> str:
        partly = f"partly: otherwise {self.fair}{self.unit}" if self.fair else "there is no partly"
        return f"{self.what}. Reproduced: {self.good}{self.unit}; {partly}."

    def _half(self) -> str:
        return f"{self.what}, {self.good}{self.unit}"

    def _number(self, evidence: Evidence) -> tuple[float, str, tuple[Record, ...]]:
        """The number, in words, and its records."""
        raise NotImplementedError

    def _find(self, evidence: Evidence) -> Judgement:
        try:
            number, measured, records = self._number(evidence)
        except Absent as absent:
            raise Absent(self.absent or str(absent)) from None
        fair = self.fair is not None and self.fair.holds(number)
        return Judgement(verdict_of(self.good.holds(number), fair), measured, records, self.why)


@dataclass(frozen=True)
class Difference(_InRange):
    """PSNR of one model less another's (each may be the median of several), on the mean over the data sets."""

    why: str = NOT_DIV2K
    compared: Compared = "a difference"
    unit = " dB"

    def _of(self, psnr: Mapping[str, float]) -> float:
        above, below = (statistics.median(psnr[name] for name in names) for names in (self.above, self.below))
        return above - below

    def _number(self, evidence: Evidence) -> tuple[float, str, tuple[Record, ...]]:
        scores = evidence.scores(*dict.fromkeys((*self.above, *self.below)))
        return *scores.take(self._of), scores.records


@dataclass(frozen=True)
class Ratio(_InRange):
    """A time (or the sum of several) over another; with `quantity` "size" of two files."""

    why: str = THIS_MACHINE
    shown: str = "{:.2f}"
    quantity: Literal["latency", "size"] = "latency"
    compared: Compared = "a ratio"

    def _number(self, evidence: Evidence) -> tuple[float, str, tuple[Record, ...]]:
        names = (*self.above, *self.below)
        if self.quantity == "latency":
            records = evidence.times(*names)
            words = milliseconds(records.values())
        else:
            records = {name: evidence.value(self.quantity, name) for name in names}
            words = f"{' and '.join(f'{record.value:,.0f}' for record in records.values())} bytes"
        above, below = (sum(records[name].value for name in part) for part in (self.above, self.below))
        return above / below, f"{self.shown.format(above / below)} ({words})", tuple(records.values())


@dataclass(frozen=True)
class Slower(Rule):
    """Some nodes are slower than another node or a network."""

    what: str
    slower: tuple[str, ...]
    faster: str
    compared: Compared = "an ordering"

    def _words(self) -> str:
        good = "it is slower; partly: their intervals overlap" if len(self.slower) == 1 else "all are; partly: one is"
        return f"{self.what} Reproduced: {good}."

    def _find(self, evidence: Evidence) -> Judgement:
        slower = [name for name in self.slower if name not in evidence.refused] or self.slower
        times = evidence.times(*slower, self.faster)
        fast = times[self.faster]
        above = [clearly_above(times[name], fast) for name in slower]
        overlap = len(above) == 1 and not clearly_above(fast, times[slower[0]])
        records = tuple(times.values())
        verdict = verdict_of(all(above), any(above) or overlap)
        return Judgement(verdict, milliseconds(records), records, THIS_MACHINE)


@dataclass(frozen=True)
class Place(Rule):
    """Where something stands among others, as in the paper: slower or faster, or (on an image) better or worse."""

    subject: str
    paper: Mapping[str, float]
    names: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    quantity: str = "latency"
    level: float = 0.05
    enough: float = 0.75
    compared: Compared = "an ordering"

    @property
    def others(self) -> list[str]:
        """Those that stand clearly apart in the paper; on an image, all."""
        own, apart = self.paper[self.subject], 0 if self.image else 1 + self.level
        return [name for name, value in self.paper.items()
                if name != self.subject and max(value, own) / min(value, own) > apart]

    def _words(self) -> str:
        if self.image:
            named = " and ".join(self.names[name] for name in self.others)
            return (
                f"Better or worse than {named} in {self.quantity.upper()} over the whole image. "
                "Reproduced: both as on the paper's crop; partly: one."
            )
        return (
            f"Which of {len(self.others)} others are slower and which faster, at {size_of(self.subject)} on one "
            f"device (others within {self.level:.0%} in the paper are left out). Reproduced: all as in the paper; "
            f"partly: at least {self.enough:.0%} of them."
        )

    def _find(self, evidence: Evidence) -> Judgement:
        if self.image:
            records = {name: evidence.image(self.quantity, name, self.image) for name in self.paper}
        else:
            records = evidence.times(self.subject, *(name for name in self.others if name not in evidence.refused))
        own, others = records[self.subject], {name: records[name] for name in self.others if name in records}
        if 2 * len(others) < len(self.others):
            raise Absent("most of the others are refused")
        agree = [
            name for name, other in others.items()
            if clearly_above(*((own, other) if self.paper[self.subject] > self.paper[name] else (other, own)))
        ]
        if self.image:
            measured = ", ".join(f"{name} {record.value:.4g}" for name, record in records.items())
            why = "The paper does not say where the crop lies: the whole image's order is compared, not the values."
        else:
            measured = f"{own.value:.3g} ms; {len(agree)} of {len(others)} pairs as in the paper"
            if against := ", ".join(name for name in others if name not in agree):
                measured += f", not those with {against}"
            why = "The time belongs to the paper's NPU, so the order is compared, not the milliseconds."
        fair = bool(agree) if self.image else len(agree) >= self.enough * len(others)
        return Judgement(verdict_of(len(agree) == len(others), fair), measured, tuple(records.values()), why)


@dataclass(frozen=True)
class Npus(Rule):
    """A rule about an NPU, by the estimates for several, named by columns of their records: `share` must agree."""

    rule: Rule
    on: tuple[Mapping[str, str | int], ...]
    share: float
    why: str
    compared: Compared

    def _words(self) -> str:
        named = ", ".join(str(npu["accelerator"]) for npu in self.on)
        return (
            f"{self.rule.text} That on each of {named}, by its compiler's estimates, but for what it refuses. "
            f"Over these NPUs, reproduced: it is on at least {self.share:.0%} of them; partly: at least partly on half."
        )

    def judge(self, evidence: Evidence) -> Judgement:
        """The verdict of the NPUs; "not testable here" where fewer than half can be compared. A CPU stands beside."""
        each = {str(npu["accelerator"]): self.rule.judge(evidence.on(npu)) for npu in self.on}
        known = {name: found for name, found in each.items() if found.records}
        beside = self.rule.judge(evidence)
        verdicts = [found.verdict for found in known.values()]
        good, partly = (verdicts.count(word) for word in ("reproduced", "partly"))
        parts = [f"{name}: {found.verdict}, {found.measured.split(', not those')[0]}" for name, found in known.items()]
        parts += [f"{name}: left out" for name in each if name not in known]
        parts += [f"a CPU: {beside.measured}"] if beside.records else []
        apart = f"beside, on a CPU: {beside.verdict}" if beside.records else ""
        if 2 * len(known) < len(each):
            why = f"Fewer than half of {len(each)} NPUs take what is compared, or have been asked. {self.why}"
            return Judgement("not testable here", apart, beside.records, " ".join([why, *parts[len(each):]]))
        verdict = verdict_of(good >= self.share * len(known), 2 * (good + partly) >= len(known))
        told = f"{good} of {len(known)} NPUs agree" + (f"; {apart}" if apart else "")
        records = tuple(record for found in (*known.values(), beside) for record in found.records)
        return Judgement(verdict, told, records, f"{'; '.join(parts)}. {self.why}")


@dataclass(frozen=True)
class Count(Rule):
    """A network's trainable parameters, in thousands as the paper prints them."""

    network: str
    thousands: float
    shown: str = "{:,.0f}"
    why: str = "Another number of trainable parameters."

    def _words(self) -> str:
        return f"Reproduced: our network's trainable parameters round to {self.thousands:.2f} K; there is no partly."

    def _half(self) -> str:
        return f"the trainable parameters of {self.network} round to {self.thousands} K"

    def _find(self, evidence: Evidence) -> Judgement:
        record = evidence.value("parameters", self.network)
        same = round(record.value / 1000, 2) == self.thousands
        why = "" if same else self.why
        return Judgement(verdict_of(same, False), self.shown.format(record.value), (record,), why)


@dataclass(frozen=True)
class Recipe(Rule):
    """Whether a shipped model was trained as the authors say; nothing measured refutes a description."""

    model: str
    steps: int
    followed: Mapping[str, str]
    where: str
    compared: Compared = "a description"

    def _words(self) -> str:
        wanted = ", ".join(f"{key} {value}" for key, value in self.followed.items())
        return (
            f"Whether the shipped {self.model} was trained by the recipe of {self.where}: {wanted}, {self.steps:,} "
            "batches (an epoch is 1000 batches in the authors' code). Reproduced: wholly; partly: in at least half of "
            "it; otherwise not testable here, since a description is not refuted by other training."
        )

    def _find(self, evidence: Evidence) -> Judgement:
        description = "It describes what the authors did, which no measurement of ours can refute."
        try:
            record = evidence.value("training-steps", self.model)
        except Absent:
            raise Absent(f"{description[:-1]}. Each shipped model states the recipe that made it") from None
        given = {key: str(value) for key, value in record.columns.items() if key not in ("network", "form", "seed")}
        ours = {**given, "steps": f"{record.value:.0f}"}
        wanted = {**self.followed, "steps": str(self.steps)}
        departs = [f"{key} {ours.get(key, 'not stated')}" for key, value in wanted.items() if ours.get(key) != value]
        measured = f"{self.model}: {', '.join(f'{key} {ours[key]}' for key in sorted(ours))}"
        good, fair = not departs, len(departs) <= len(wanted) / 2
        why = f"The shipped model was trained otherwise in: {', '.join(departs)}."
        if good:
            why = "The shipped model was trained by this recipe."
        elif not fair:
            why = f"{description} Ours departs in: {', '.join(departs)}."
        return Judgement(verdict_of(good, fair, "not testable here"), measured, (record,), why)


@dataclass(frozen=True)
class Both(Rule):
    """Two halves, of which the second is untested where it has no record."""

    first: _InRange | Count
    second: _InRange | Count
    joint: str = "; "
    compared: Compared = "a ratio"

    def _words(self) -> str:
        halves = f"Two halves: {self.first._half()}; {self.second._half()}"
        return f"{halves}. Reproduced: both; partly: one, or one with the other untested."

    def _find(self, evidence: Evidence) -> Judgement:
        first = self.first._find(evidence)
        good = first.verdict == "reproduced"
        try:
            second = self.second._find(evidence)
        except Absent as absent:
            why = f"Untested: {absent}. {first.why}".strip()
            return replace(first, verdict=verdict_of(False, good), why=why)
        also = second.verdict == "reproduced"
        measured, records = f"{first.measured}{self.joint}{second.measured}", first.records + second.records
        return Judgement(verdict_of(good and also, good or also), measured, records, first.why or second.why)


@dataclass(frozen=True)
class Own(Rule):
    """A rule with code of its own."""

    words: str
    code: Callable[[Evidence], Judgement]
    compared: Compared

    def _words(self) -> str:
        return self.words

    def _find(self, evidence: Evidence) -> Judgement:
        return self.code(evidence)


@dataclass(frozen=True)
class Untestable(Rule):
    """The rule of a claim that no record made here could test."""

    why: str

    def _words(self) -> str:
        return "None: nothing measured here could confirm or refute it."

    def _find(self, evidence: Evidence) -> Judgement:
        raise Absent(self.why.rstrip("."))
