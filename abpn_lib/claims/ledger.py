"""The ledger: every claim of the paper, a rule fixed beforehand, and the verdict of the records.

Rules are written before values are seen, and a rule's text is made from the numbers its code uses.
What a claim is compared *as* is part of it:

- **a difference**: the paper's dB are on DIV2K validation, ours on other images, so gaps and drops are
  compared, never the values themselves. One policy for all of them: the quantity is taken on every
  data set of `DATASETS` on which all models it needs were measured under the authors' protocol
  (`PROTOCOL`), and the rule holds or fails on the plain mean over those sets.
- **an ordering** or **a ratio**: the paper's milliseconds are an NPU's or a phone's, ours are this
  machine's, so which is slower and by what factor is compared. All times of one comparison come from
  one device, one number of threads and one kernel path; two medians whose intervals overlap are
  not ordered.
- **a value**, **arithmetic** on quoted values, or **a description** of what the authors did.

A claim whose records are not there is not testable here, and says what is missing.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

from abpn_lib import paper
from abpn_lib.files import InputError
from abpn_lib.results import Record

__all__ = [
    "CLAIMS", "DATASETS", "PROTOCOL", "Claim",  "Judgement", "Verdict", "anchor", "claim", "judge_score",
    "ledger", "to_json", "to_markdown",
]

Verdict = Literal["reproduced", "partly", "not reproduced", "not testable here"]
Compared = Literal["a value", "a difference", "an ordering", "a ratio", "arithmetic", "a description"]

DATASETS = ("urban100", "bsd100", "set14", "set5", "embedded")
"""The data sets whose mean decides a rule on dB, as far as they were measured."""

PROTOCOL = "rgb-border1"
"""The authors' protocol by its name in the records."""

_NETWORK_SIZE, _NODE_SIZE = "640x360", "1920x1080"
_NPU = "The time belongs to the paper's NPU"
_NOT_DIV2K = "Our images are not DIV2K's, so only the difference is compared."
_THIS_MACHINE = "Another device than the paper's: the comparison holds for the machine that was timed."



@dataclass(frozen=True)
class Judgement:
    """What the records say of a claim: the verdict, what was measured in words, from which records, and why."""

    verdict: Verdict
    measured: str
    records: tuple[Record, ...] = ()
    why: str = ""


Judge = Callable[[Sequence[Record]], Judgement]
_Of = Callable[[Mapping[str, float]], float]


@dataclass(frozen=True)
class Claim:
    """One claim of the paper. `quoted` are ids of `paper.QUOTED`; `judge` turns records into a verdict by `rule`."""

    id: str
    where: str
    statement: str
    quoted: tuple[str, ...]
    rule: str
    judge: Judge
    compared: Compared

    @property
    def section(self) -> str:
        """The table, figure or section of the paper under which the ledger lists it."""
        if self.id[0] == "S":
            return self.where.split(" and ")[0]
        return {"T": "Table ", "F": "Figure "}[self.id[0]] + self.id[1]


def claim(id: str) -> Claim:
    """One of `CLAIMS` by its id.

    Raises
    ------
    InputError
        If there is none.
    """
    for found in CLAIMS:
        if found.id == id:
            return found
    raise InputError(f"no claim is called {id!r}; `abpn claims` lists them")


def ledger(records: Iterable[Record]) -> list[tuple[Claim, Judgement]]:
    """Every claim with its judgement by these records. Where both are there, measured ones go before recorded ones."""
    known = list(records)
    return [(entry, entry.judge(known)) for entry in CLAIMS]


# Reading the records


class _Absent(Exception):
    """A record that a rule needs is not there; turned into "not testable here"."""


_KIND_ORDER: tuple[tuple[str, ...], ...] = (("measured",), ("recorded",), ("measured", "recorded"))


_SEEDS = 3


@dataclass(frozen=True)
class _Scores:
    """Mean PSNR in dB of some models on every data set where all of them were measured, for every seed.

    A model that was not trained from a further seed stands in that seed's table with its first one.
    """

    seeds: tuple[Mapping[str, Mapping[str, float]], ...]
    records: tuple[Record, ...]

    @property
    def by_set(self) -> dict[str, dict[str, float]]:
        return {
            dataset: {subject: statistics.fmean(seed[dataset][subject] for seed in self.seeds) for subject in table}
            for dataset, table in self.seeds[0].items()
        }

    @property
    def means(self) -> dict[str, float]:
        return _mean_over_sets(self.by_set)

    def told(self, of: _Of) -> str:
        each = ", ".join(f"{name} {of(table):+.2f}" for name, table in self.by_set.items())
        by_seed = [of(_mean_over_sets(seed)) for seed in self.seeds]
        spread = f"; {len(by_seed)} seeds {min(by_seed):+.2f} to {max(by_seed):+.2f}" if len(by_seed) > 1 else ""
        return f"{of(self.means):+.2f} dB ({each}{spread})"


def _mean_over_sets(by_set: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    tables = list(by_set.values())
    return {subject: statistics.fmean(table[subject] for table in tables) for subject in tables[0]}


def _of_seed(subject: str, seed: int) -> str:
    """The same model trained from another seed: abpn-fp32 -> abpn-seed1-fp32."""
    return re.sub(r"((?:-(?:fp32|int8).*)?)$", rf"-seed{seed}\1", subject, count=1)


def _scores(records: Sequence[Record], *subjects: str, reading: str = "") -> _Scores:
    tables: list[dict[str, dict[str, float]]] = [{} for _ in range(_SEEDS)]
    used: list[Record] = []
    for dataset in DATASETS:
        for kinds in _KIND_ORDER:
            row = [_psnr(records, subject, dataset, kinds, reading) for subject in subjects]
            found = [record for record in row if record is not None]
            # A difference between means over different images would say nothing.
            if len(found) == len(subjects) and len({record.count for record in found}) == 1:
                tables[0][dataset] = {record.subject: record.value for record in found}
                used += found
                for seed in range(1, _SEEDS):
                    others = _other_seed(records, found, dataset, seed, reading)
                    tables[seed][dataset] = {**tables[0][dataset], **{key: r.value for key, r in others.items()}}
                    used += others.values()
                break
    if not tables[0]:
        raise _Absent(f"there is no data set on which PSNR was measured for all of: {', '.join(subjects)}")
    # The seeds of different networks are independent draws: a seed's table needs no pairing, but all data sets.
    several = any(_is_seed(record.subject) for record in used)
    return _Scores(tuple(tables if several else tables[:1]), tuple(used))


def _is_seed(subject: str) -> bool:
    return re.search(r"-seed\d+(-|$)", subject) is not None


def _other_seed(
    records: Sequence[Record], found: Sequence[Record], dataset: str, seed: int, reading: str
) -> dict[str, Record]:
    """The records of another seed, by the first seed's subject, as far as there are any."""
    others = {}
    for first in found:
        name = _of_seed(first.subject, seed)
        hits = [_psnr(records, name, dataset, kinds, reading) for kinds in _KIND_ORDER]
        known = next((record for record in hits if record is not None and record.count == first.count), None)
        if known is not None:
            others[first.subject] = known
    return others


def _psnr(records: Sequence[Record], subject: str, dataset: str, kinds: tuple[str, ...], reading: str) -> Record | None:
    for kind in kinds:
        for record in records:
            conditions = record.conditions
            if (
                (record.quantity, record.subject, record.kind) == ("psnr", subject, kind)
                and conditions.get("dataset") == dataset and conditions.get("protocol", PROTOCOL) == PROTOCOL
                and conditions.get("reading", "") == reading and "image" not in conditions
            ):
                return record
    return None


def _times(records: Sequence[Record], *wanted: tuple[str, str]) -> dict[str, Record]:
    """The latency records of (subject, size) pairs, all of one kind, device, thread count and kernel path."""
    groups: dict[tuple[str, ...], dict[str, Record]] = {}
    for record in records:
        size, channels = record.conditions.get("size", ""), record.conditions.get("channels", "3")
        if record.quantity == "latency" and (record.subject, size) in wanted and channels == "3":
            threads, kernels = record.conditions.get("threads", "1"), record.conditions.get("kernels", "xnnpack")
            groups.setdefault((record.kind, threads, kernels, record.device), {}).setdefault(record.subject, record)
    # Measured before recorded, one thread before more, XNNPACK before the built-in kernels.
    for key in sorted(groups, key=lambda key: (key[0] != "measured", key[1] != "1", key[2] != "xnnpack", key)):
        if len(groups[key]) == len(wanted):
            return groups[key]
    names = ", ".join(f"{subject} ({size})" for subject, size in wanted)
    raise _Absent(f"not all of these were timed on one device under equal conditions: {names}")


def _value(records: Sequence[Record], quantity: str, subject: str) -> Record:
    for kind in ("measured", "recorded"):
        for record in records:
            if (record.quantity, record.subject, record.kind) == (quantity, subject, kind):
                return record
    raise _Absent(f"there is no record of {quantity} of {subject}")


def _milliseconds(*records: Record) -> str:
    return ", ".join(f"{record.subject} {record.value:.3g} ms" for record in records)


# From a comparison to a verdict


def _graded(good: bool, fair: bool) -> Verdict:
    return "reproduced" if good else "partly" if fair else "not reproduced"


def _both(*parts: bool | None) -> Verdict:
    """The verdict of a claim of several halves; None is a half that was not tested."""
    tested = [part for part in parts if part is not None]
    if all(tested):
        return "reproduced" if len(tested) == len(parts) else "partly"
    return "partly" if any(tested) else "not reproduced"


def _total(judge: Judge) -> Judge:
    """A judge that answers "not testable here" where a record is not there."""

    def total(records: Sequence[Record]) -> Judgement:
        try:
            return judge(records)
        except _Absent as absent:
            return Judgement("not testable here", "", (), f"{str(absent)[0].upper()}{str(absent)[1:]}.")

    return total


@dataclass(frozen=True)
class _Rule:
    text: str
    judge: Judge
    compared: Compared


def _never(why: str, compared: Compared = "a value") -> _Rule:
    """The rule of a claim that no record made here could test."""
    text = "None: nothing measured here could confirm or refute it."
    return _Rule(text, lambda _: Judgement("not testable here", "", (), why), compared)


def _made(id: str, rule: _Rule, statement: str = "") -> Claim:
    entry = paper.QUOTED[id]
    within = tuple(key for key in paper.QUOTED if key.startswith(f"{id}."))
    told = statement or entry.text
    return Claim(id, entry.where, told, within or (id,), rule.text, _total(rule.judge), rule.compared)


def _near(
    target: float, near: float, far: float, subjects: Sequence[str], of: _Of, what: str,
) -> _Rule:
    """Judge whether a difference in dB, taken by `of` from the models' PSNR, is near the paper's."""

    def judge(records: Sequence[Record]) -> Judgement:
        scores = _scores(records, *subjects)
        off = abs(of(scores.means) - target)
        return Judgement(_graded(off <= near, off <= far), scores.told(of), scores.records, _NOT_DIV2K)

    text = (
        f"{what}, {target:+.2f} dB in the paper. Reproduced: within {near:.2f} dB of that on the mean over the "
        "data sets; "
        f"partly: within {far:.2f} dB."
    )
    return _Rule(text, judge, "a difference")


def _place(subject: str, paper_ms: Mapping[str, float], size: str) -> _Rule:
    """Judge whether `subject` is slower and faster than the same others as in the paper."""
    level, enough = 0.05, 0.75
    own = paper_ms[subject]
    others = [name for name, ms in paper_ms.items() if name != subject and max(ms, own) / min(ms, own) > 1 + level]

    def judge(records: Sequence[Record]) -> Judgement:
        times = _times(records, *((name, size) for name in (subject, *others)))
        agree = [name for name in others if _clearly_above(*_as_in_paper(times, paper_ms, subject, name))]
        share = len(agree) / len(others)
        told = f"{times[subject].value:.3g} ms; {len(agree)} of {len(others)} pairs as in the paper"
        against = [name for name in others if name not in agree]
        told += f", not those with {', '.join(against)}" if against else ""
        why = f"{_NPU}, so the order is compared, not the milliseconds."
        return Judgement(_graded(share == 1, share >= enough), told, tuple(times.values()), why)

    text = (
        f"Which of {len(others)} others are slower and which faster, at {size} on this machine (others within "
        f"{level:.0%} in the "
        f"paper are left out). Reproduced: all as in the paper; partly: at least {enough:.0%} of them."
    )
    return _Rule(text, judge, "an ordering")


def _as_in_paper(times: Mapping[str, Record], paper_ms: Mapping[str, float], a: str, b: str) -> tuple[Record, Record]:
    """Two records, the one first that the paper has as the slower."""
    return (times[a], times[b]) if paper_ms[a] > paper_ms[b] else (times[b], times[a])


def _clearly_above(a: Record, b: Record) -> bool:
    """Whether a's interval lies above b's; without intervals, whether its value does."""
    return (a.spread or (a.value, a.value))[0] > (b.spread or (b.value, b.value))[1]


def _time_ratio(
    above: str, below: str, size: str, near: tuple[float, float], far: tuple[float, float], what: str,
) -> _Rule:
    """Judge whether the ratio of two times lies in an interval."""

    def judge(records: Sequence[Record]) -> Judgement:
        times = _times(records, (above, size), (below, size))
        ratio = times[above].value / times[below].value
        told = f"{ratio:.2f} ({_milliseconds(times[above], times[below])})"
        verdict = _graded(near[0] <= ratio <= near[1], far[0] <= ratio <= far[1])
        return Judgement(verdict, told, tuple(times.values()), _THIS_MACHINE)

    return _Rule(f"{what}. Reproduced: {_interval(near)}; partly: {_interval(far)}.", judge, "a ratio")


def _interval(bounds: tuple[float, float]) -> str:
    low, high = bounds
    if high == math.inf:
        return f"at least {low:.3g}"
    return f"at most {high:g}" if low == 0 else f"{low:.3g} to {high:.3g}"


# Tables 1 to 4 and Figure 3


def _table1() -> Iterable[Claim]:
    paper_ms = {f"node-{node}": paper.quoted(f"T1.{node}").number for node in paper.META_NODES}
    for node, name in paper.META_NODES.items():
        entry = paper.quoted(f"T1.{node}")
        rule = _place(f"node-{node}", paper_ms, _NODE_SIZE)
        yield _made(entry.id, rule, f"One {name} takes {entry.shown} on the NPU.")


def _table2() -> Iterable[Claim]:
    paper_ms = {f"{network}-int8-ptq": paper.quoted(f"T2.{network}.ms").number for network in paper.TABLE2}
    for network, name in paper.TABLE2.items():
        cells = {column: paper.quoted(f"T2.{network}.{column}") for column in ("params", "fp32", "int8", "ms")}
        rules = {
            "params": _parameters(network, cells["params"].number),
            "fp32": _above_median(network),
            "int8": _drop(network),
            "ms": _place(f"{network}-int8-ptq", paper_ms, _NETWORK_SIZE),
        }
        phrases = {"params": "has {} parameters", "fp32": "reaches {} in FP32", "int8": "reaches {} in INT8",
                   "ms": "takes {} on the NPU"}
        for column, rule in rules.items():
            shown = cells[column].shown
            yield _made(cells[column].id, rule, f"{name[0].upper()}{name[1:]} {phrases[column].format(shown)}.")


def _parameters(network: str, thousands: float) -> _Rule:
    def judge(records: Sequence[Record]) -> Judgement:
        record = _value(records, "parameters", network)
        same = round(record.value / 1000, 2) == thousands
        why = "" if same else "Another number of trainable parameters."
        return Judgement(_graded(same, False), f"{record.value:,.0f}", (record,), why)

    text = f"Reproduced: our network's trainable parameters round to {thousands:.2f} K; there is no partly."
    return _Rule(text, judge, "a value")


def _above_median(network: str) -> _Rule:
    subjects = {f"{name}-fp32": paper.quoted(f"T2.{name}.fp32").number for name in paper.TABLE2}

    def gap(of: Mapping[str, float]) -> float:
        return of[f"{network}-fp32"] - statistics.median(of[subject] for subject in subjects)

    what = "The FP32 model's distance from the median of the five rows"
    return _near(gap(subjects), 0.04, 0.15, tuple(subjects), gap, what)


def _drop_of(network: str) -> float:
    return paper.quoted(f"T2.{network}.fp32").number - paper.quoted(f"T2.{network}.int8").number


def _drop_tolerance(drop: float) -> float:
    return max(0.10, 0.25 * abs(drop))


def _drop(network: str) -> _Rule:
    drop = _drop_of(network)
    near = _drop_tolerance(drop)
    return _near(
        drop, near, 3 * near, (f"{network}-fp32", f"{network}-int8-ptq"),
        lambda of: of[f"{network}-fp32"] - of[f"{network}-int8-ptq"], "What INT8 (PTQ) costs: FP32 minus INT8",
    )


def _table3() -> Iterable[Claim]:
    ratio = paper.quoted("T3.abpn.cpu").number / paper.quoted("T3.fsrcnn.cpu").number
    cpu = _time_ratio(
        "abpn-int8-ptq", "fsrcnn-int8-ptq", _NETWORK_SIZE, (0.75 * ratio, 1.25 * ratio), (1, math.inf),
        f"On this machine's CPU, ABPN's time over FSRCNN's, both INT8, {ratio:.2f} in the paper "
        "(its FSRCNN is not specified; ours is 56, 12, 4)",
    )
    psnr = {
        "fsrcnn": _near(
            paper.quoted("T3.abpn.psnr").number - paper.quoted("T3.fsrcnn.psnr").number, 0.5, 1.5,
            ("abpn-int8-qat", "fsrcnn-int8-ptq"), lambda of: of["abpn-int8-qat"] - of["fsrcnn-int8-ptq"],
            "ABPN (QAT) minus FSRCNN (PTQ), both INT8",
        ),
        "abpn": _near(
            paper.quoted("T2.abpn.fp32").number - paper.quoted("T3.abpn.psnr").number, 0.05, 0.15,
            ("abpn-fp32", "abpn-int8-qat"), lambda of: of["abpn-fp32"] - of["abpn-int8-qat"],
            "What the QAT model loses against FP32",
        ),
    }
    for network, name in paper.COMPARED.items():
        for column in ("cpu", "gpu", "nnapi", "psnr"):
            entry = paper.quoted(f"T3.{network}.{column}")
            if column == "psnr":
                yield _made(entry.id, psnr[network], f"{name} reaches {entry.shown} in INT8.")
                continue
            unit = {"cpu": "CPU", "gpu": "GPU", "nnapi": "accelerator (NNAPI)"}[column]
            why = f"The Snapdragon 820's {unit} is not at hand, and a CPU's times say nothing about it."
            rule = cpu if column == "cpu" else _never(why)
            yield _made(entry.id, rule, f"{name} takes {entry.shown} on the Snapdragon 820's {unit}.")


def _table4() -> Iterable[Claim]:
    whys = {
        "psnr": "The challenge scored on its own test images, which are not published.",
        "ssim": "The challenge scored on its own test images, which are not published.",
        "ms": f"{_NPU}, which is not at hand.",
    }
    names = {"psnr": "a PSNR of", "ssim": "an SSIM of", "ms": "a run time of"}
    for team, name in paper.CHALLENGE.items():
        for column, why in whys.items():
            entry = paper.quoted(f"T4.{team}.{column}")
            also = "" if team == "abpn" else " Nor is this team's network."
            yield _made(entry.id, _never(why + also), f"In the challenge {name} has {names[column]} {entry.shown}.")
        yield _score_claim(team, name)


def _score_claim(team: str, name: str) -> Claim:
    printed, psnr, ms = (paper.quoted(f"T4.{team}.{column}") for column in ("score", "psnr", "ms"))
    text = (
        "2^(2·PSNR − 48) / ms, computed from the row's quoted PSNR and run time. Reproduced: equal to the score "
        "in every "
        "digit printed; there is no partly."
    )
    rule = _Rule(text, lambda _: judge_score(psnr.number, ms.number, printed.text), "arithmetic")
    made = _made(printed.id, rule, f"In the challenge {name} scores {printed.shown}.")
    return replace(made, quoted=(printed.id, psnr.id, ms.id))


def judge_score(psnr: float, milliseconds: float, printed: str) -> Judgement:
    """Whether a printed challenge score follows from its row's PSNR in dB and latency in ms, digit by digit."""
    digits = len(printed.partition(".")[2])
    value = paper.score(psnr, milliseconds)
    same = f"{value:.{digits}f}" == printed
    why = "Arithmetic on the paper's own numbers: nothing was measured for it."
    return Judgement(_graded(same, False), f"{value:.{digits}f}, computed from quoted values", (), why)


_FIGURE3_SUBJECTS = {"bicubic": "bicubic", "fsrcnn": "fsrcnn-int8-ptq", "abpn": "abpn-int8-qat"}


def _figure3() -> Iterable[Claim]:
    for image in ("img004", "img091"):
        for method, name in paper.FIGURE3.items():
            for column in ("psnr", "ssim"):
                entry = paper.quoted(f"F3.{image}.{method}.{column}")
                text = f"On the crop of Urban100 {image} shown, {name} has {column.upper()} {entry.shown}."
                yield _made(entry.id, _crop(image, method, column), text)


def _crop(image: str, method: str, quantity: str) -> _Rule:
    printed = {name: paper.quoted(f"F3.{image}.{name}.{quantity}").number for name in paper.FIGURE3}
    others = [name for name in printed if name != method]

    def judge(records: Sequence[Record]) -> Judgement:
        found = {name: _image_record(records, quantity, _FIGURE3_SUBJECTS[name], image) for name in printed}
        agree = [
            name for name in others
            if (found[method].value - found[name].value) * (printed[method] - printed[name]) > 0
        ]
        told = ", ".join(f"{_FIGURE3_SUBJECTS[name]} {record.value:.4g}" for name, record in found.items())
        return Judgement(
            _graded(len(agree) == len(others), bool(agree)), told, tuple(found.values()),
            "The paper does not say where the crop lies: the order on the whole image is compared, not the values.",
        )

    text = (
        f"Better or worse than {' and '.join(paper.FIGURE3[name] for name in others)} in {quantity.upper()} over "
        "the whole image. "
        "Reproduced: both as on the paper's crop; partly: one."
    )
    return _Rule(text, judge, "an ordering")


def _image_record(records: Sequence[Record], quantity: str, subject: str, image: str) -> Record:
    stem = f"img_{image[-3:]}"
    for kind in ("measured", "recorded"):
        for record in records:
            if (
                (record.quantity, record.subject, record.kind) == (quantity, subject, kind)
                and record.conditions.get("dataset") == "urban100"
                and record.conditions.get("protocol", PROTOCOL) == PROTOCOL
                # Image names carry the file's suffix: img_004_SRF_4_HR.
                and (record.conditions.get("image", "") + "_").startswith(stem + "_")
            ):
                return record
    raise _Absent(f"there is no record of {quantity} of {subject} on Urban100's {stem}")


# The statements


def _statements() -> Iterable[Claim]:
    return (_made(f"S{i}", rule) for i, rule in enumerate((
        _s1(), _s2(), _s3(), _s4(), _s5(), _s6(), _s7(), _s8(), _s9(), _s10(), _s11(),
        _s12(), _s13(), _s14(), _s15(), _s16(), _s17(), _s18(), _s19(), _s20(), _s21(),
    ), start=1))


def _s1() -> _Rule:
    def judge(records: Sequence[Record]) -> Judgement:
        times = _times(records, ("node-add", _NODE_SIZE), ("node-conv3", _NODE_SIZE))
        add, conv = times["node-add"], times["node-conv3"]
        verdict = _graded(_clearly_above(add, conv), not _clearly_above(conv, add))
        return Judgement(verdict, _milliseconds(add, conv), (add, conv), _THIS_MACHINE)

    text = "The two nodes at 1080p. Reproduced: the addition is slower; partly: their intervals overlap."
    return _Rule(text, judge, "an ordering")


def _s2() -> _Rule:
    return _time_ratio(
        "node-conv3", "node-conv1", _NODE_SIZE, (0, 2), (0, 4.5),
        "The 3×3 convolution's time over the 1×1's, 1.48 in Table 1 (parameters and operations are 9 times by "
        "arithmetic)",
    )


def _s3() -> _Rule:
    factor, gain = 1.5, paper.quoted("S3.gain").number

    def judge(records: Sequence[Record]) -> Judgement:
        times = _times(records, ("node-leaky-relu", _NODE_SIZE), ("node-relu", _NODE_SIZE))
        leaky, relu = times["node-leaky-relu"], times["node-relu"]
        ratio = leaky.value / relu.value
        told = f"leaky ReLU takes {ratio:.2f} times as long ({_milliseconds(leaky, relu)})"
        try:
            scores = _scores(records, "ablation-leaky-fp32", "ablation-reference-fp32")
        except _Absent:
            why = "The dB are untested: no ablation has been run yet."
            return Judgement(_both(ratio >= factor, None), told, (leaky, relu), f"{why} {_THIS_MACHINE}")

        def gained(of: Mapping[str, float]) -> float:
            return of["ablation-leaky-fp32"] - of["ablation-reference-fp32"]

        verdict = _both(ratio >= factor, gained(scores.means) <= gain)
        told += f"; it gains {scores.told(gained)}"
        return Judgement(verdict, told, (leaky, relu, *scores.records), _THIS_MACHINE)

    text = (
        f"Two halves: leaky ReLU takes at least {factor:g} times as long as ReLU (2.77 in Table 1), and gains at "
        f"most {gain:.2f} dB "
        "in an ablation. Reproduced: both; partly: one, or one with the other untested."
    )
    return _Rule(text, judge, "a ratio")


def _s4() -> _Rule:
    def judge(records: Sequence[Record]) -> Judgement:
        network = "abpn-int8-ptq"
        times = _times(records, ("node-nearest", _NODE_SIZE), ("node-bilinear", _NODE_SIZE), (network, _NETWORK_SIZE))
        slower = [_clearly_above(times[node], times[network]) for node in ("node-nearest", "node-bilinear")]
        return Judgement(_both(*slower), _milliseconds(*times.values()), tuple(times.values()), _THIS_MACHINE)

    text = (
        "Real time depends on the device. What does not: in the paper, either resize node alone (57.6 and 75.4 "
        "ms) takes longer "
        "than the whole of ABPN in INT8 (36.8 ms). Reproduced: both nodes do; partly: one does."
    )
    return _Rule(text, judge, "an ordering")


def _s5() -> _Rule:
    def judge(records: Sequence[Record]) -> Judgement:
        try:
            scores = _scores(records, "ablation-reference-fp32", "ablation-batchnorm-fp32")
        except _Absent:
            raise _Absent("no ablation has been run yet: it needs a network trained with batch normalisation") from None

        def loss(of: Mapping[str, float]) -> float:
            return of["ablation-reference-fp32"] - of["ablation-batchnorm-fp32"]

        lost = loss(scores.means)
        return Judgement(_graded(0.1 <= lost <= 0.3, lost >= 0.03), scores.told(loss), scores.records, _NOT_DIV2K)

    text = (
        "What batch normalisation loses in an ablation. Reproduced: 0.1 to 0.3 dB; "
        "partly: any other loss of at least 0.03 dB."
    )
    return _Rule(text, judge, "a difference")


def _s6() -> _Rule:
    near, far = 0.35, 1.0

    def judge(records: Sequence[Record]) -> Judgement:
        times = _times(records, *((f"node-{node}", _NODE_SIZE) for node in ("concat", "add", "nearest")))
        concat, add, nearest = (times[f"node-{node}"] for node in ("concat", "add", "nearest"))
        ratio = (concat.value + add.value) / nearest.value
        told = f"{ratio:.2f} ({_milliseconds(concat, add, nearest)})"
        return Judgement(_graded(ratio <= near, ratio < far), told, (concat, add, nearest), _THIS_MACHINE)

    text = (
        f"Concat plus addition over the nearest-neighbour node, 0.27 in the paper. Reproduced: at most {near:g}; "
        f"partly: below {far:g}, "
        "so that ABRL is still the cheaper."
    )
    return _Rule(text, judge, "a ratio")


def _s7() -> _Rule:
    near, far = (2 / 3, 1.5), (1 / 3, 3.0)
    lr, hr = "node-concat9-lr", "node-concat"

    def judge(records: Sequence[Record]) -> Judgement:
        times = _times(records, (lr, _NETWORK_SIZE), (hr, _NODE_SIZE))
        ratio = times[lr].value / times[hr].value
        verdict = _graded(near[0] <= ratio <= near[1], far[0] <= ratio <= far[1])
        told = f"{ratio:.2f} ({_milliseconds(times[lr], times[hr])})"
        return Judgement(verdict, told, tuple(times.values()), _THIS_MACHINE)

    text = (
        f"A concat of nine LR tensors (640x360) over the concat node at 1080p. Reproduced: {_interval(near)}; "
        f"partly: {_interval(far)}. By arithmetic, nine LR tensors hold as many values as one HR tensor."
    )
    return _Rule(text, judge, "a ratio")


def _s8() -> _Rule:
    def lead(of: Mapping[str, float]) -> float:
        return of["abpn-int8-ptq"] - of["fsrl-int8-ptq"]

    def judge(records: Sequence[Record]) -> Judgement:
        scores = _scores(records, "abpn-int8-ptq", "fsrl-int8-ptq")
        led = lead(scores.means)
        return Judgement(_graded(0.3 <= led <= 0.9, led >= 0.05), scores.told(lead), scores.records, _NOT_DIV2K)

    text = "ABRL minus FSRL, both INT8 (PTQ). Reproduced: 0.3 to 0.9 dB; partly: any other lead of at least 0.05 dB."
    return _Rule(text, judge, "a difference")


def _s9() -> _Rule:
    return _time_ratio(
        "abpn-int8-ptq", "fsrl-int8-ptq", _NETWORK_SIZE, (0, 1.05), (0, 1.15),
        "ABPN's time over FSRL's, both INT8, 1.025 in Table 2 (the paper's own 36.8 ms is a little above its 35.9 ms)",
    )


def _s10() -> _Rule:
    def judge(records: Sequence[Record]) -> Judgement:
        found = [record for record in records if record.quantity == "anchor-difference"]
        if not found:
            raise _Absent("the anchor path has not been compared with nearest-neighbour interpolation")
        worst = max(record.value for record in found)
        return Judgement(_graded(worst == 0, False), f"greatest difference {worst:g} levels", tuple(found))

    text = (
        "The greatest absolute difference between the anchor path and nearest-neighbour interpolation. "
        "Reproduced: exactly 0 in every record; there is no partly."
    )
    return _Rule(text, judge, "a value")


def _s11() -> _Rule:
    pairs, near = 5, 0.05

    def judge(records: Sequence[Record]) -> Judgement:
        timed = {record.subject for record in records if record.quantity == "latency"}
        fewer = [name for name in (f"abpn-int8-pairs{n}" for n in range(pairs)) if name in timed]
        if not fewer:
            raise _Absent("ABPN with fewer than five conv-ReLU pairs has not been timed")
        full = "abpn-int8-ptq"
        times = _times(records, *((name, _NETWORK_SIZE) for name in (full, *fewer)))
        ratios = [times[name].value / times[full].value for name in fewer]
        same = [abs(ratio - 1) <= near for ratio in ratios]
        return Judgement(_both(*same), _milliseconds(*times.values()), tuple(times.values()), _THIS_MACHINE)

    text = (
        f"ABPN in INT8 with fewer pairs against ABPN with {pairs}. Reproduced: every shorter network timed is "
        f"within {near:.0%} of it; "
        "partly: some are."
    )
    return _Rule(text, judge, "a ratio")


def _s12() -> _Rule:
    limit, fall = paper.quoted("S12.limit").number, 3.0
    name, kept = "abpn-int8-noclip", "abpn-int8-ptq"

    def judge(records: Sequence[Record]) -> Judgement:
        scores = _scores(records, name, reading="raw")
        psnr = scores.means[name]
        told = f"{psnr:.2f} dB ({', '.join(f'{key} {row[name]:.2f}' for key, row in scores.by_set.items())})"
        with_clip = [_psnr(records, kept, key, ("measured", "recorded"), "") for key in scores.by_set]
        reference = [record.value for record in with_clip if record is not None]
        falls = len(reference) == len(with_clip) and statistics.fmean(reference) - psnr >= fall
        used = scores.records + tuple(record for record in with_clip if record is not None)
        why = "Other images than DIV2K's. The output is read raw, as in the authors' evaluation: its scale is ignored."
        return Judgement(_graded(psnr < limit, falls), told, used, why)

    text = (
        f"PSNR of the INT8 model without clip, its output read raw, on the mean over the data sets. Reproduced: "
        f"below {limit:g} dB; "
        f"partly: at least {fall:g} dB below the model with clip."
    )
    return _Rule(text, judge, "a value")


def _s13() -> _Rule:
    targets = {"none": "baseline", "FSRL": "fsrl", "image": "abpn"}
    quoted = {"none": "S13.none", "FSRL": "S13.fsrl", "image": "S13.image"}

    def judge(records: Sequence[Record]) -> Judgement:
        networks = targets.values()
        scores = _scores(records, *(f"{network}-{kind}" for network in networks for kind in ("fp32", "int8-ptq")))
        means = scores.means
        drops = {name: means[f"{network}-int8-ptq"] - means[f"{network}-fp32"] for name, network in targets.items()}
        paper_drops = {name: paper.quoted(id).number for name, id in quoted.items()}
        near = all(abs(drops[name] - drop) <= _drop_tolerance(drop) for name, drop in paper_drops.items())
        ordered = all(a < b for a, b in pairwise(drops[name] for name in targets))
        told = ", ".join(f"{name} {drop:+.2f} dB" for name, drop in drops.items())
        told += f" (mean over {', '.join(scores.by_set)})"
        return Judgement(_graded(near and ordered, ordered), told, scores.records, _NOT_DIV2K)

    text = (
        "INT8 (PTQ) minus FP32 for the baseline, FSRL and ABPN. Reproduced: in the paper's order, and each "
        "within 0.10 dB or a quarter "
        "of the paper's drop, whichever is more; partly: in the paper's order."
    )
    return _Rule(text, judge, "a difference")


def _s14() -> _Rule:
    subjects = tuple(f"{network}-fp32" for network in paper.TABLE2)

    def lead(of: Mapping[str, float]) -> float:
        return of["fsrl-fp32"] - max(of[subject] for subject in subjects if subject != "fsrl-fp32")

    def judge(records: Sequence[Record]) -> Judgement:
        scores = _scores(records, *subjects)
        means = scores.means
        others = [means[subject] for subject in subjects if subject != "fsrl-fp32"]
        led, width = lead(means), max(others) - min(others)
        told = f"FSRL's lead over the next {scores.told(lead)}; the others lie within {width:.2f} dB"
        fair = led > 0 or max(means.values()) - min(means.values()) <= 0.15
        return Judgement(_graded(0 < led <= 0.10 and width <= 0.10, fair), told, scores.records, _NOT_DIV2K)

    text = (
        "The five FP32 models. Reproduced: FSRL leads by at most 0.10 dB, and the others lie within 0.10 dB; "
        "partly: FSRL leads, or all "
        "five lie within 0.15 dB."
    )
    return _Rule(text, judge, "a difference")


def _s15() -> _Rule:
    # Half the gain: with 0.05, a gain of nothing at all would have passed.
    gain, loss, near = paper.quoted("S15.gain").number, paper.quoted("S15.loss").number, 0.03

    def gained(of: Mapping[str, float]) -> float:
        return of["abpn-int8-qat"] - of["abpn-int8-ptq"]

    def lost(of: Mapping[str, float]) -> float:
        return of["abpn-fp32"] - of["abpn-int8-qat"]

    def judge(records: Sequence[Record]) -> Judgement:
        scores = _scores(records, "abpn-fp32", "abpn-int8-ptq", "abpn-int8-qat")
        ours = gained(scores.means), lost(scores.means)
        good = abs(ours[0] - gain) <= near and abs(ours[1] - loss) <= near
        told = f"QAT minus PTQ {scores.told(gained)}; FP32 minus QAT {scores.told(lost)}"
        return Judgement(_graded(good, ours[0] > 0), told, scores.records, _NOT_DIV2K)

    text = (
        f"QAT minus PTQ ({gain:.2f} dB) and FP32 minus QAT ({loss:.2f} dB). Reproduced: both within {near:.2f} dB "
        "of the paper's; "
        "partly: QAT is better than PTQ."
    )
    return _Rule(text, judge, "a difference")


def _s16() -> _Rule:
    def lead(of: Mapping[str, float]) -> float:
        return of["abpn-int8-qat"] - of["fsrcnn-int8-ptq"]

    def judge(records: Sequence[Record]) -> Judgement:
        scores = _scores(records, "abpn-int8-qat", "fsrcnn-int8-ptq")
        led = lead(scores.means)
        why = f"{_NOT_DIV2K} The paper does not specify its FSRCNN; ours is (56, 12, 4) with PReLU."
        return Judgement(_graded(1.5 <= led <= 2.5, led >= 0.2), scores.told(lead), scores.records, why)

    text = (
        "ABPN (QAT) minus FSRCNN (PTQ), both INT8. Reproduced: 1.5 to 2.5 dB; "
        "partly: any other lead of at least 0.2 dB."
    )
    return _Rule(text, judge, "a difference")


def _s17() -> _Rule:
    frames = paper.quoted("S17.frames").number

    def judge(records: Sequence[Record]) -> Judgement:
        timed = [
            record for record in records
            if record.quantity == "latency" and record.subject == "abpn-int8-ptq"
            and record.conditions.get("size") == _NETWORK_SIZE
        ]
        if not timed:
            raise _Absent("ABPN in INT8 has not been timed at 640x360")
        best = min(timed, key=lambda record: record.value)
        rate = 1000 / best.value
        told = f"{rate:.1f} frames/s ({_milliseconds(best)}, {best.conditions.get('threads', '1')} thread(s))"
        if rate >= frames:
            return Judgement("reproduced", told, (best,), f"On {best.device}, not on the paper's NPU.")
        why = (
            f"{best.device} is not the paper's NPU, and a slower device cannot refute the claim. "
            "Table 2's 36.8 ms are 27.2 frames/s."
        )
        return Judgement("not testable here", told, (best,), why)

    text = (
        f"Frames a second of ABPN in INT8 from 640x360 to 1080p, the fastest time recorded. Reproduced: at least "
        f"{frames:g} on "
        "that machine; below that, not testable here."
    )
    return _Rule(text, judge, "a value")


def _s18() -> _Rule:
    speed, memory = 2.0, 3.0

    def judge(records: Sequence[Record]) -> Judgement:
        names = "abpn-fp32", "abpn-int8-ptq"
        times = _times(records, *((name, _NETWORK_SIZE) for name in names))
        faster = times[names[0]].value / times[names[1]].value
        told = f"{faster:.2f} times faster ({_milliseconds(*times.values())})"
        try:
            sizes = [_value(records, "size", name) for name in names]
        except _Absent:
            why = f"The file sizes are untested: they have no record. {_THIS_MACHINE}"
            return Judgement(_both(faster >= speed, None), told, tuple(times.values()), why)
        smaller = sizes[0].value / sizes[1].value
        told += f"; {smaller:.2f} times smaller ({sizes[0].value:,.0f} and {sizes[1].value:,.0f} bytes)"
        return Judgement(_both(faster >= speed, smaller >= memory), told, (*times.values(), *sizes), _THIS_MACHINE)

    text = (
        f"ABPN, FP32 against INT8 (PTQ): its time falls by a factor of at least {speed:g}, its file by at least "
        f"{memory:g} (a file also "
        "holds the graph, which does not shrink). Reproduced: both; partly: one, or one with the other untested."
    )
    return _Rule(text, judge, "a ratio")


def _s19() -> _Rule:
    thousands = paper.quoted("S19.params").number

    def judge(records: Sequence[Record]) -> Judgement:
        built = {name: _value(records, "parameters", name) for name in ("abpn", "abpn-text")}
        same = {name: round(record.value / 1000, 2) == thousands for name, record in built.items()}
        told = ", ".join(f"{name} {record.value:,.0f}" for name, record in built.items())
        why = "The last pair narrows to 27 channels in the authors' code, which the text does not say."
        why = "" if same["abpn-text"] else why
        return Judgement(_both(same["abpn"], same["abpn-text"]), told, tuple(built.values()), why)

    text = (
        f"Trainable parameters of the network as the authors' code has it (abpn) and as the text words it "
        "(abpn-text). Reproduced: both "
        f"round to {thousands} K; partly: one does."
    )
    return _Rule(text, judge, "a value")


def _s20() -> _Rule:
    return _recipe("abpn-fp32", 1_000_000, {
        "batch": "16", "patch": "64", "start": "he", "rate": "0.001", "schedule": "halving", "data": "div2k-train",
    }, "section 4.1")


def _s21() -> _Rule:
    followed = {"rate": "0.0001", "schedule": "halving", "data": "div2k-train"}
    return _recipe("abpn-int8-qat", 200_000, followed, "section 4.3")


def _recipe(model: str, steps: int, followed: Mapping[str, str], where: str) -> _Rule:
    """A description of what the authors did: nothing measured refutes it; a model can be trained by it or not."""
    wanted = ", ".join(f"{key} {value}" for key, value in followed.items())

    def judge(records: Sequence[Record]) -> Judgement:
        description = "It describes what the authors did, which no measurement of ours can refute."
        try:
            record = _value(records, "training-steps", model)
        except _Absent:
            why = f"{description} Each shipped model states the recipe that made it: `abpn models --json`."
            return Judgement("not testable here", "", (), why)
        ours = {**record.conditions, "steps": f"{record.value:.0f}"}
        departs = [f"{key} {ours.get(key, 'not stated')}" for key, value in {**followed, "steps": str(steps)}.items()
                   if ours.get(key) != value]
        told = f"{model}: {', '.join(f'{key} {ours[key]}' for key in sorted(ours))}"
        if not departs:
            return Judgement("reproduced", told, (record,), "The shipped model was trained by this recipe.")
        if len(departs) <= (len(followed) + 1) / 2:
            why = f"The shipped model was trained otherwise in: {', '.join(departs)}."
            return Judgement("partly", told, (record,), why)
        return Judgement("not testable here", told, (record,), f"{description} Ours departs in: {', '.join(departs)}.")

    text = (
        f"Whether the shipped {model} was trained by the recipe of {where}: {wanted}, {steps:,} batches "
        "(an epoch is 1000 batches in the authors' code). Reproduced: wholly; partly: in at least half of it; "
        "otherwise not testable here, since a description is not refuted by other training."
    )
    return _Rule(text, judge, "a description")


CLAIMS: tuple[Claim, ...] = (
    *_table1(), *_table2(), *_table3(), *_table4(), *_figure3(), *_statements(),
)
"""Every claim, by tables, figure and statements: T1.<node>, T2.<network>.<column>, ..., S1 to S21."""


# The ledger on paper

_MARKS = {"measured": "■ measured here", "recorded": "● recorded", "": "= computed from quoted values"}
_TITLES = {
    "Table 1": "meta-node latency", "Table 2": "residual learning", "Table 3": "Snapdragon 820",
    "Table 4": "MAI2021 challenge",
    "Figure 3": "visual comparison", "abstract": "", "section 1": "introduction", "section 2.3": "quantisation",
    "section 3.1": "meta-nodes", "section 3.2": "anchor-based residual learning", "section 3.3": "architecture",
    "sections 3.3": "the clip node", "section 4.1": "settings", "section 4.2": "residual learning",
    "section 4.3": "quantisation-aware training",
}


def anchor(id: str) -> str:
    """The ledger page's reference target of a claim: ``claim-t2-abpn-int8`` for T2.abpn.int8."""
    return "claim-" + id.lower().replace(".", "-")


def to_json(entries: Sequence[tuple[Claim, Judgement]]) -> str:
    """The ledger as a JSON list: for each claim the paper's values, the rule, the verdict and the records."""
    return json.dumps([_as_data(entry, judgement) for entry, judgement in entries], indent=1, ensure_ascii=False)


def _as_data(entry: Claim, judgement: Judgement) -> dict[str, Any]:
    return {
        "id": entry.id, "section": entry.section, "where": entry.where, "statement": entry.statement,
        "paper": [asdict(paper.QUOTED[id]) for id in entry.quoted],
        "compared": entry.compared, "rule": entry.rule, "verdict": judgement.verdict, "measured": judgement.measured,
        "why": judgement.why,
        "records": [{"id": record.id, **asdict(record)} for record in judgement.records],
    }


def to_markdown(entries: Sequence[tuple[Claim, Judgement]]) -> str:
    """The ledger as a MyST page: counts first, then for each table or section a summary and every claim in full.

    Each claim has a reference target, `anchor` of its id.
    """
    sections: dict[str, list[tuple[Claim, Judgement]]] = {}
    for entry, judgement in sorted(entries, key=lambda pair: list(_TITLES).index(pair[0].section)):
        sections.setdefault(entry.section, []).append((entry, judgement))
    parts = ["(claims)=", "# The claim ledger", "", *_preface(), "", *_counts(sections)]
    for name, rows in sections.items():
        parts += ["", f"({_section_anchor(name)})=", f"## {_heading(name)}", "", *_summary(rows)]
        for entry, judgement in rows:
            parts += ["", *_details(entry, judgement)]
    return "\n".join(parts) + "\n"


def _preface() -> list[str]:
    return [
        "Every claim of the paper, a rule that was fixed before the value was looked at, what was measured, and the",
        f"verdict. “…” is quoted from the paper, {_MARKS['recorded']} comes from a full run shipped with the library,",
        f"{_MARKS['measured']} from the run that made this page, and = marks arithmetic on quoted values.",
        "",
        "What a verdict speaks of stands beside it. The paper's dB are on DIV2K validation and ours on other "
        "images, so",
        f"*differences* are compared, on the plain mean over those of {', '.join(DATASETS)} on which",
        "every model concerned was measured (RGB, one border pixel cropped). The paper's milliseconds are an "
        "NPU's or a",
        "phone's, so *orderings* and *ratios* are compared, within one device, thread count and kernel path.",
    ]


def _counts(sections: Mapping[str, Sequence[tuple[Claim, Judgement]]]) -> list[str]:
    verdicts = get_args(Verdict)
    rows = [
        (f"[{_heading(name)}](#{_section_anchor(name)})", [judgement.verdict for _, judgement in found])
        for name, found in sections.items()
    ]
    rows.append(("**All**", [verdict for _, found in rows for verdict in found]))
    return [
        _row("Where", *verdicts, "claims"), _row(*["---"] * (len(verdicts) + 2)),
        *(_row(name, *(str(found.count(verdict)) for verdict in verdicts), str(len(found))) for name, found in rows),
    ]


def _summary(rows: Sequence[tuple[Claim, Judgement]]) -> list[str]:
    return [
        _row("Claim", "The paper", "Here", "Verdict"), _row(*["---"] * 4),
        *(
            _row(f"[{entry.id}](#{anchor(entry.id)})", _quotes(entry), _here(judgement), _verdict(entry, judgement))
            for entry, judgement in rows
        ),
    ]


def _details(entry: Claim, judgement: Judgement) -> list[str]:
    lines = [
        f"({anchor(entry.id)})=", f"**{entry.id}.** {_escaped(entry.statement)}", "",
        f"- Where: {_escaped(entry.where)}",
        f"- The paper: {_quotes(entry)}",
        f"- Here: {_here(judgement)}",
        f"- Rule: {_escaped(entry.rule)}",
        f"- Verdict: {_verdict(entry, judgement)}. {_escaped(judgement.why, keep_code=True)}".rstrip(),
    ]
    if judgement.records:
        count = len(judgement.records)
        lines += ["", f"<details><summary>{count} record{'s' if count > 1 else ''}</summary>", ""]
        lines += [f"- {_MARKS[record.kind]}: `{record.id}` by `{record.command}`" for record in judgement.records]
        lines += ["", "</details>"]
    return lines


def _quotes(entry: Claim) -> str:
    quotes = [paper.QUOTED[id] for id in entry.quoted]
    if quotes[0].value is None:
        return "the statement itself"
    if len(quotes) == 1:
        return _escaped(f"“{quotes[0].shown}”")
    return _escaped(", ".join(f"{quote.id.split('.')[-1]} “{quote.shown}”" for quote in quotes))


def _here(judgement: Judgement) -> str:
    if not judgement.measured:
        return "no record"
    kinds = sorted({str(record.kind) for record in judgement.records}) or [""]
    return _escaped(f"{' and '.join(_MARKS[kind] for kind in kinds)}: {judgement.measured}")


def _verdict(entry: Claim, judgement: Judgement) -> str:
    told = f"**{judgement.verdict}**"
    return told if judgement.verdict == "not testable here" else f"{told}, as {entry.compared}"


def _heading(section: str) -> str:
    name = section.replace("sections 3.3", "sections 3.3 and 4.5")
    return f"{name[0].upper()}{name[1:]}" + (f": {_TITLES[section]}" if _TITLES[section] else "")


def _section_anchor(section: str) -> str:
    return "claims-" + section.lower().replace(" ", "-").replace(".", "-")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str, *, keep_code: bool = False) -> str:
    """Text with Markdown's own signs taken literally; with `keep_code` backquotes stay what they are."""
    for sign in "\\*_<>[]{}$|#~" + ("" if keep_code else "`"):
        text = text.replace(sign, f"\\{sign}")
    return text
