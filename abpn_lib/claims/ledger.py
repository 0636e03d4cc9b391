"""The ledger: every claim of the paper, a rule fixed beforehand, and the verdict of the records.

To add a claim: its statement, numbers and rule are one entry of ``paper.yaml``, written before anything is measured;
then add the record. Page, JSON, counts and notebooks follow by themselves.

Rules are written before values are seen, and a rule's text is made from the numbers its code uses (`shapes`). One
policy holds for all dB: a quantity is taken on every data set on which all models it needs were measured under the
authors' protocol, and the rule holds or fails on the plain mean over those sets. All times of one comparison come from
one device, one number of threads and one kernel path. A claim whose records are not there is not testable here, and
says what is missing.
"""

from __future__ import annotations

import functools
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from abpn_lib import paper
from abpn_lib.claims.evidence import Absent, Evidence, milliseconds
from abpn_lib.claims.shapes import (
    NOT_DIV2K,
    NPU,
    THIS_MACHINE,
    Both,
    Compared,
    Count,
    Difference,
    Found,
    Judgement,
    Own,
    Place,
    Range,
    Ratio,
    Recipe,
    Rule,
    Score,
    Slower,
    Untestable,
)
from abpn_lib.files import InputError
from abpn_lib.results import Context, Record

__all__ = ["Claim", "anchor", "claim", "claims", "from_json", "judge", "ledger", "to_json"]


@dataclass(frozen=True)
class Claim:
    """One claim of the paper: `quoted` are ids of `paper.QUOTED`, and `shape` turns records into a verdict."""

    id: str
    where: str
    statement: str
    quoted: tuple[str, ...]
    shape: Rule

    @property
    def rule(self) -> str:
        """The rule in words."""
        return self.shape.text

    @property
    def compared(self) -> Compared:
        """What the claim is compared as."""
        return self.shape.compared

    @property
    def section(self) -> str:
        """The table, figure or section of the paper under which the ledger lists it: a key of `paper.SECTIONS`."""
        place = {"T": "Table ", "F": "Figure "}.get(self.id[0])
        return f"{place}{self.id[1]}" if place else self.where


def claims() -> tuple[Claim, ...]:
    """Every claim, by tables, figure and statements: T1.<node>, T2.<network>.<column>, ..., S1 to S21."""
    return tuple(_claims().values())


def claim(id: str) -> Claim:
    """One claim by its id.

    Raises `InputError` if there is none.
    """
    if id not in _claims():
        raise InputError(f"no claim is called {id!r}; `abpn claims` lists them")
    return _claims()[id]


def judge(id: str, records: Iterable[Record]) -> Judgement:
    """The judgement of one claim by these records."""
    return claim(id).shape.judge(Evidence(records))


def ledger(records: Iterable[Record]) -> list[tuple[Claim, Judgement]]:
    """Every claim with its judgement by these records. Where both are there, measured ones go before recorded ones."""
    evidence = Evidence(records)
    return [(entry, entry.shape.judge(evidence)) for entry in claims()]


@functools.cache
def _claims() -> Mapping[str, Claim]:
    made = {}
    for id, rule, statement in (*_table1(), *_table2(), *_table3(), *_table4(), *_figure3(), *_statements()):
        entry = paper.quoted(id)
        within = tuple(key for key in paper.QUOTED if key.startswith(f"{id}.")) or (id,)
        if isinstance(rule, Score):
            within = (id, *(f"{id.rpartition('.')[0]}.{column}" for column in ("psnr", "ms")))
        made[id] = Claim(id, entry.where, statement or entry.text, within, rule)
    return made


def q(id: str) -> float:
    """A number of the paper."""
    return paper.quoted(id).number


_Entry = tuple[str, Rule, str]


def _table1() -> Iterator[_Entry]:
    by_node = {f"node-{node}": q(f"T1.{node}") for node in paper.META_NODES}
    for node, name in paper.META_NODES.items():
        shown = paper.quoted(f"T1.{node}").shown
        yield f"T1.{node}", Place(f"node-{node}", by_node), f"One {name} takes {shown} on the NPU."


def _table2() -> Iterator[_Entry]:
    phrases = {"params": "has {} parameters", "fp32": "reaches {} in FP32", "int8": "reaches {} in INT8",
               "ms": "takes {} on the NPU"}
    floats = {f"{network}-fp32": q(f"T2.{network}.fp32") for network in paper.TABLE2}
    times = {f"{network}-int8-ptq": q(f"T2.{network}.ms") for network in paper.TABLE2}
    for network, name in paper.TABLE2.items():
        fp32, ptq = f"{network}-fp32", f"{network}-int8-ptq"
        drop = q(f"T2.{network}.fp32") - q(f"T2.{network}.int8")
        near = _drop_tolerance(drop)
        rules = {
            "params": Count(network, q(f"T2.{network}.params")),
            "fp32": Difference(
                "The FP32 model's distance from the median of the five rows", fp32, tuple(floats),
                target=floats[fp32] - statistics.median(floats.values()), near=0.04, far=0.15,
            ),
            "int8": Difference(
                "What INT8 (PTQ) costs: FP32 minus INT8", fp32, ptq, target=drop, near=near, far=3 * near
            ),
            "ms": Place(ptq, times),
        }
        for column, rule in rules.items():
            shown = paper.quoted(f"T2.{network}.{column}").shown
            statement = f"{name[0].upper()}{name[1:]} {phrases[column].format(shown)}."
            yield f"T2.{network}.{column}", rule, statement


def _drop_tolerance(drop: float) -> float:
    return max(0.10, 0.25 * abs(drop))


def _table3() -> Iterator[_Entry]:
    units = {"cpu": "CPU", "gpu": "GPU", "nnapi": "accelerator (NNAPI)"}
    ratio = q("T3.abpn.cpu") / q("T3.fsrcnn.cpu")
    cpu = Ratio(
        f"On this machine's CPU, ABPN's time over FSRCNN's, both INT8, {ratio:.2f} in the paper (its FSRCNN is not "
        "specified; ours is 56, 12, 4)",
        "abpn-int8-ptq", "fsrcnn-int8-ptq", good=Range(0.75 * ratio, 1.25 * ratio), fair=Range(1, math.inf),
    )
    psnr = {
        "fsrcnn": Difference(
            "ABPN (QAT) minus FSRCNN (PTQ), both INT8", "abpn-int8-qat", "fsrcnn-int8-ptq",
            target=q("T3.abpn.psnr") - q("T3.fsrcnn.psnr"), near=0.5, far=1.5,
        ),
        "abpn": Difference(
            "What the QAT model loses against FP32", "abpn-fp32", "abpn-int8-qat",
            target=q("T2.abpn.fp32") - q("T3.abpn.psnr"), near=0.05, far=0.15,
        ),
    }
    for network, name in paper.COMPARED.items():
        for column, unit in units.items():
            rule = cpu if column == "cpu" else Untestable(
                f"The Snapdragon 820's {unit} is not at hand, and a CPU's times say nothing about it."
            )
            shown = paper.quoted(f"T3.{network}.{column}").shown
            yield f"T3.{network}.{column}", rule, f"{name} takes {shown} on the Snapdragon 820's {unit}."
        shown = paper.quoted(f"T3.{network}.psnr").shown
        yield f"T3.{network}.psnr", psnr[network], f"{name} reaches {shown} in INT8."


def _table4() -> Iterator[_Entry]:
    unpublished = "The challenge scored on its own test images, which are not published."
    whys = {"psnr": unpublished, "ssim": unpublished, "ms": f"{NPU}, which is not at hand."}
    names = {"psnr": "a PSNR of", "ssim": "an SSIM of", "ms": "a run time of"}
    for team, name in paper.CHALLENGE.items():
        also = "" if team == "abpn" else " Nor is this team's network."
        for column, why in whys.items():
            shown = paper.quoted(f"T4.{team}.{column}").shown
            statement = f"In the challenge {name} has {names[column]} {shown}."
            yield f"T4.{team}.{column}", Untestable(why + also), statement
        printed = paper.quoted(f"T4.{team}.score").shown
        score = Score(q(f"T4.{team}.psnr"), q(f"T4.{team}.ms"), printed)
        yield f"T4.{team}.score", score, f"In the challenge {name} scores {printed}."


_FIGURE3 = {"bicubic": "bicubic", "fsrcnn": "fsrcnn-int8-ptq", "abpn": "abpn-int8-qat"}


def _figure3() -> Iterator[_Entry]:
    names = {_FIGURE3[method]: name for method, name in paper.FIGURE3.items()}
    for image in ("img004", "img091"):
        for method, name in paper.FIGURE3.items():
            for column in ("psnr", "ssim"):
                printed = {model: q(f"F3.{image}.{key}.{column}") for key, model in _FIGURE3.items()}
                rule = Place(_FIGURE3[method], printed, names, f"img_{image[-3:]}", column)
                shown = paper.quoted(f"F3.{image}.{method}.{column}").shown
                statement = f"On the crop of Urban100 {image} shown, {name} has {column.upper()} {shown}."
                yield f"F3.{image}.{method}.{column}", rule, statement


def _statements() -> Iterator[_Entry]:
    for id, content in paper.rules().items():
        yield id, _rule(content), ""


def _rule(content: Mapping[str, Any]) -> Rule:
    """A rule from its data: the shape by its name, ranges from [low, high] with None for an open end."""
    fields: dict[str, Any] = {}
    for key, value in content.items():
        if key in ("good", "fair"):
            low, high = value
            fields[key] = Range(-math.inf if low is None else low, math.inf if high is None else high)
        elif key in ("first", "second"):
            fields[key] = _rule(value)
        elif key == "code":
            fields[key] = _OWN[value]
        elif key != "shape":
            fields[key] = tuple(value) if isinstance(value, list) else value
    return _SHAPES[content["shape"]](**fields)


# Rules that have no shape in common with others.


def _anchor(evidence: Evidence) -> Found:
    found = evidence.of("anchor-difference")
    if not found:
        raise Absent("the anchor path has not been compared with nearest-neighbour interpolation")
    worst = max(record.value for record in found)
    return Found(worst == 0, False, f"greatest difference {worst:g} levels", tuple(found))


def _fewer_pairs(evidence: Evidence) -> Found:
    pairs, near, full = int(q("S11.pairs")), 0.05, "abpn-int8-ptq"
    names = [f"abpn-int8-pairs{n}" for n in range(pairs)]
    fewer = [name for name in names if ("latency", name) in evidence.records]
    if not fewer:
        raise Absent("ABPN with fewer than five conv-ReLU pairs has not been timed")
    times = evidence.times(full, *fewer)
    same = [abs(times[name].value / times[full].value - 1) <= near for name in fewer]
    return Found(all(same), any(same), milliseconds(times.values()), tuple(times.values()), THIS_MACHINE)


def _no_clip(evidence: Evidence) -> Found:
    limit, fall, name = q("S12.limit"), 3.0, "abpn-int8-noclip"
    scores = evidence.scores(name, reading="raw")
    psnr = scores.means[name]
    each = ", ".join(f"{key} {row[name]:.2f}" for key, row in scores.by_set.items())
    with_clip = [evidence.psnr("abpn-int8-ptq", key) for key in scores.by_set]
    reference = tuple(record for record in with_clip if record is not None)
    whole = len(reference) == len(with_clip)
    falls = whole and statistics.fmean(record.value for record in reference) - psnr >= fall
    why = "Other images than DIV2K's. The output is read raw, as in the authors' evaluation: its scale is ignored."
    return Found(psnr < limit, falls, f"{psnr:.2f} dB ({each})", scores.records + reference, why)


def _drops(evidence: Evidence) -> Found:
    networks = {"none": "baseline", "FSRL": "fsrl", "image": "abpn"}
    targets = {"none": q("S13.none"), "FSRL": q("S13.fsrl"), "image": q("S13.image")}
    scores = evidence.scores(*(f"{name}-{form}" for name in networks.values() for form in ("fp32", "int8-ptq")))
    means = scores.means
    drops = {key: means[f"{name}-int8-ptq"] - means[f"{name}-fp32"] for key, name in networks.items()}
    near = all(abs(drops[key] - target) <= _drop_tolerance(target) for key, target in targets.items())
    ordered = all(a < b for a, b in pairwise(drops.values()))
    measured = ", ".join(f"{key} {drop:+.2f} dB" for key, drop in drops.items())
    measured += f" (mean over {', '.join(scores.by_set)})"
    return Found(near and ordered, ordered, measured, scores.records, NOT_DIV2K)


def _level(evidence: Evidence) -> Found:
    fsrl, *rest = sorted((f"{name}-fp32" for name in paper.TABLE2), key=lambda name: name != "fsrl-fp32")
    scores = evidence.scores(*(f"{name}-fp32" for name in paper.TABLE2))
    others = [scores.means[name] for name in rest]
    lead, width = scores.means[fsrl] - max(others), max(others) - min(others)
    text = scores.text(lambda psnr: psnr[fsrl] - max(psnr[name] for name in rest))
    measured = f"FSRL's lead over the next {text}; the others lie within {width:.2f} dB"
    spread = max(scores.means.values()) - min(scores.means.values())
    return Found(
        0 < lead <= 0.10 and width <= 0.10, lead > 0 or spread <= 0.15, measured, scores.records, NOT_DIV2K
    )


def _qat(evidence: Evidence) -> Found:
    # Half the gain: with 0.05, a gain of nothing at all would have passed.
    near = 0.03
    gained = Difference("", "abpn-int8-qat", "abpn-int8-ptq").of
    lost = Difference("", "abpn-fp32", "abpn-int8-qat").of
    scores = evidence.scores("abpn-fp32", "abpn-int8-ptq", "abpn-int8-qat")
    gain, loss = gained(scores.means), lost(scores.means)
    good = abs(gain - q("S15.gain")) <= near and abs(loss - q("S15.loss")) <= near
    measured = f"QAT minus PTQ {scores.text(gained)}; FP32 minus QAT {scores.text(lost)}"
    return Found(good, gain > 0, measured, scores.records, NOT_DIV2K)


def _frame_rate(evidence: Evidence) -> Found:
    timed = [record for record in evidence.records.get(("latency", "abpn-int8-ptq"), [])
             if record.get("size") == "640x360"]
    if not timed:
        raise Absent("ABPN in INT8 has not been timed at 640x360")
    best = min(timed, key=lambda record: record.value)
    rate, device = 1000 / best.value, best.context.device
    measured = f"{rate:.1f} frames/s ({milliseconds([best])}, {best.get('threads', 1)} thread(s))"
    good = rate >= q("S17.frames")
    slower = (
        f"{device} is not the paper's NPU, and a slower device cannot refute the claim. "
        "Table 2's 36.8 ms are 27.2 frames/s."
    )
    why = f"On {device}, not on the paper's NPU." if good else slower
    return Found(good, False, measured, (best,), why, "not testable here")


_OWN = {
    "anchor": _anchor, "fewer_pairs": _fewer_pairs, "no_clip": _no_clip, "drops": _drops, "level": _level, "qat": _qat,
    "frame_rate": _frame_rate,
}
_SHAPES: Mapping[str, type[Rule]] = {
    "difference": Difference, "ratio": Ratio, "slower": Slower, "count": Count, "recipe": Recipe, "both": Both,
    "own": Own,
}


def anchor(id: str) -> str:
    """The ledger page's reference target of a claim: ``claim-t2-abpn-int8`` for T2.abpn.int8."""
    return "claim-" + id.lower().replace(".", "-")


def to_json(entries: Sequence[tuple[Claim, Judgement]]) -> str:
    """The ledger as a JSON list: for each claim the paper's values, the rule, the verdict and the records."""
    return json.dumps([_as_data(entry, judgement) for entry, judgement in entries], indent=1, ensure_ascii=False)


def from_json(text: str) -> list[tuple[Claim, Judgement]]:
    """The ledger that `to_json` wrote."""
    entries = []
    for row in json.loads(text):
        records = []
        for given in row["records"]:
            fields = {key: value for key, value in given.items() if key != "id"}
            spread = tuple(fields["spread"]) if fields["spread"] else None
            records.append(Record(**{**fields, "spread": spread, "context": Context(**fields["context"])}))
        entries.append((claim(row["id"]), Judgement(row["verdict"], row["measured"], tuple(records), row["why"])))
    return entries


def _as_data(entry: Claim, judgement: Judgement) -> dict[str, Any]:
    return {
        "id": entry.id, "section": entry.section, "where": entry.where, "statement": entry.statement,
        "paper": [asdict(paper.quoted(id)) for id in entry.quoted],
        "compared": entry.compared, "rule": entry.rule, "verdict": judgement.verdict, "measured": judgement.measured,
        "why": judgement.why,
        "records": [{"id": record.id, **asdict(record)} for record in judgement.records],
    }
