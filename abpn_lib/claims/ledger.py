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

import fnmatch
import functools
import itertools
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from abpn_lib import paper
from abpn_lib.claims import shapes
from abpn_lib.claims.evidence import Absent, Evidence, Of, milliseconds
from abpn_lib.claims.shapes import NOT_DIV2K, THIS_MACHINE, Judgement, Range, Rule, verdict_of
from abpn_lib.files import InputError
from abpn_lib.results import Record


@dataclass(frozen=True)
class Claim:
    """One claim of the paper: `quoted` are ids of `paper.QUOTED`, `rule` is its shape in words."""

    id: str
    where: str
    statement: str
    quoted: tuple[str, ...]
    shape: Rule
    rule: str
    compared: shapes.Compared

    @property
    def section(self) -> str:
        """The table, figure or section of the paper under which the ledger lists it: a key of `paper.SECTIONS`."""
        place = {"T": "Table ", "F": "Figure "}.get(self.id[0])
        return f"{place}{self.id[1]}" if place else self.where


def claims() -> tuple[Claim, ...]:
    """Every claim, by tables, figure and statements: T1.<node>, T2.<network>.<column>, ..., S1, S2, ..."""
    return tuple(_claims().values())


def claim(id: str) -> Claim:
    """One claim by its id. Raises `InputError` if there is none."""
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
    rules = {**_table_rules(), **{id: rule_of(content) for id, content in paper.rules().items()}}
    made, about = {}, paper.NPUS
    for id, statement in paper.statements().items():
        within = tuple(key for key in paper.QUOTED if key.startswith(f"{id}.")) or (id,)
        if id.endswith(".score"):
            within = (id, id.replace(".score", ".psnr"), id.replace(".score", ".ms"))
        rule = rules[id]
        if any(fnmatch.fnmatchcase(id, pattern) for pattern in about["claims"]):
            rule = shapes.Npus(rule, tuple(about["devices"]), about["share"], about["why"], rule.compared)
        made[id] = Claim(id, paper.quoted(id).where, statement, within, rule, rule.text, rule.compared)
    return made


def q(id: str) -> float:
    """A number of the paper."""
    return paper.quoted(id).number


def _table_rules() -> Mapping[str, Rule]:
    """The rules of the tables' and the figure's cells, of which many stand in one column."""
    nodes = {f"node-{node}": q(f"T1.{node}") for node in paper.META_NODES}
    rules: dict[str, Rule] = {f"T1.{node}": shapes.Place(f"node-{node}", nodes) for node in paper.META_NODES}

    times = {f"{network}-int8-ptq": q(f"T2.{network}.ms") for network in paper.TABLE2}
    for network in paper.TABLE2:
        rules[f"T2.{network}.params"] = shapes.Count(network, q(f"T2.{network}.params"))
        rules[f"T2.{network}.ms"] = shapes.Place(f"{network}-int8-ptq", times)
    for team in paper.CHALLENGE:
        rules[f"T4.{team}.score"] = score_rule(*(paper.quoted(f"T4.{team}.{key}") for key in ("psnr", "ms", "score")))

    models = {"bicubic": "bicubic", "fsrcnn": "fsrcnn-int8-ptq", "abpn": "abpn-int8-qat"}
    names = {models[method]: name for method, name in paper.FIGURE3.items()}
    for image, column in itertools.product(("img004", "img091"), ("psnr", "ssim")):
        printed_values = {model: q(f"F3.{image}.{method}.{column}") for method, model in models.items()}
        for method, model in models.items():
            place = shapes.Place(model, printed_values, names, f"img_{image[-3:]}", column)
            rules[f"F3.{image}.{method}.{column}"] = place
    return rules


def score_rule(psnr: paper.Quoted, ms: paper.Quoted, score: paper.Quoted) -> Rule:
    """A challenge score must follow from its row's PSNR in dB and time in ms, in every digit printed."""
    value = f"{paper.score(psnr.number, ms.number):.{len(score.text.partition('.')[2])}f}"
    words = (
        "2^(2·PSNR − 48) / ms, computed from the row's quoted PSNR and run time. Reproduced: equal to the score in "
        "every digit printed; there is no partly."
    )
    why = "Arithmetic on the paper's own numbers: nothing was measured for it."
    judgement = Judgement(verdict_of(value == score.text, False), f"{value}, computed from quoted values", (), why)
    return shapes.Own(words, lambda _: judgement, "arithmetic")


def rule_of(content: Mapping[str, Any]) -> Rule:
    """A rule from its data: the shape by its name, ranges from [low, high] with None for an open end.

    Raises `InputError` for a shape that `shapes` does not have, or that does not take these fields.
    """
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    name = str(fields.pop("shape", "")).capitalize()
    shape = getattr(shapes, name, None)
    if not (isinstance(shape, type) and issubclass(shape, Rule)):
        raise InputError(f"paper.yaml: a rule's shape is one of claims/shapes.py, not {content.get('shape')!r}")
    for key in fields.keys() & {"good", "fair"}:
        low, high = fields[key]
        fields[key] = Range(-math.inf if low is None else low, math.inf if high is None else high)
    for key in fields.keys() & {"first", "second"}:
        fields[key] = rule_of(fields[key])
    if "code" in fields:
        fields["code"] = _OWN[fields["code"]]
    try:
        return shape(**fields)
    except TypeError as error:
        raise InputError(f"paper.yaml: a rule of shape {content['shape']}: {error}") from error


# Rules that have no shape in common with others.


def _anchor(evidence: Evidence) -> Judgement:
    if not (found := evidence.records.get(("anchor-difference", "abpn"))):
        raise Absent("the anchor path has not been compared with nearest-neighbour interpolation")
    worst = max(record.value for record in found)
    return Judgement(verdict_of(worst == 0, False), f"greatest difference {worst:g} levels", tuple(found))


def _fewer_pairs(evidence: Evidence) -> Judgement:
    near, full = 0.05, "abpn-int8-ptq"
    shorter = (f"abpn-int8-pairs{n}" for n in range(int(q("S11.pairs"))))
    if not (fewer := [name for name in shorter if ("latency", name) in evidence.records]):
        raise Absent("ABPN with fewer than five conv-ReLU pairs has not been timed")
    times = evidence.times(full, *fewer)
    same = [abs(times[name].value / times[full].value - 1) <= near for name in fewer]
    records = tuple(times.values())
    return Judgement(verdict_of(all(same), any(same)), milliseconds(records), records, THIS_MACHINE)


def _no_clip(evidence: Evidence) -> Judgement:
    fall, name = 3.0, "abpn-int8-noclip"
    scores = evidence.scores(name, reading="raw")
    psnr = scores.means[name]
    each = ", ".join(f"{key} {row[name]:.2f}" for key, row in scores.by_set.items())
    clipped = tuple(record for key in scores.by_set if (record := evidence.psnr("abpn-int8-ptq", key)))
    whole = len(clipped) == len(scores.by_set)
    falls = whole and statistics.fmean(record.value for record in clipped) - psnr >= fall
    why = "Other images than DIV2K's. The output is read raw, as in the authors' evaluation: its scale is ignored."
    verdict = verdict_of(psnr < q("S12.limit"), falls)
    return Judgement(verdict, f"{psnr:.2f} dB ({each})", scores.records + clipped, why)


def _drops(evidence: Evidence) -> Judgement:
    networks = {"none": "baseline", "FSRL": "fsrl", "image": "abpn"}
    scores = evidence.scores(*(f"{name}-{form}" for name in networks.values() for form in ("fp32", "int8-ptq")))
    taken = {key: scores.take(_change_of(name)) for key, name in networks.items()}
    drops = {key: drop for key, (drop, _) in taken.items()}
    said = {key: q(f"S13.{key.lower()}") for key in drops}
    near = all(abs(drop - said[key]) <= max(0.10, 0.25 * abs(said[key])) for key, drop in drops.items())
    ordered = all(a < b for a, b in itertools.pairwise(drops.values()))
    measured = "; ".join(f"{key} {each}" for key, (_, each) in taken.items())
    return Judgement(verdict_of(near and ordered, ordered), measured, scores.records, NOT_DIV2K)


def _change_of(network: str) -> Of:
    return lambda psnr: psnr[f"{network}-int8-ptq"] - psnr[f"{network}-fp32"]


def _level(evidence: Evidence) -> Judgement:
    others = [f"{name}-fp32" for name in paper.TABLE2 if name != "fsrl"]
    scores = evidence.scores(*(f"{name}-fp32" for name in paper.TABLE2))
    lead, led = scores.take(lambda psnr: psnr["fsrl-fp32"] - max(psnr[name] for name in others))
    width, whole = (max(of) - min(of) for of in ([scores.means[name] for name in others], scores.means.values()))
    measured = f"FSRL's lead over the next {led}; the others lie within {width:.2f} dB"
    verdict = verdict_of(0 < lead <= 0.10 and width <= 0.10, lead > 0 or whole <= 0.15)
    return Judgement(verdict, measured, scores.records, NOT_DIV2K)


def _qat(evidence: Evidence) -> Judgement:
    near = 0.03  # half the gain: with 0.05, a gain of nothing at all would have passed
    # Later ways of PTQ leave QAT less to gain than the paper's own PTQ did. QAT went on from the first seed's weights.
    scores = evidence.scores("abpn-fp32", plain := "abpn-int8-ptq-tensor", "abpn-int8-qat", seeds=1)
    gain, gained = scores.take(lambda psnr: psnr["abpn-int8-qat"] - psnr[plain])
    loss, lost = scores.take(lambda psnr: psnr["abpn-fp32"] - psnr["abpn-int8-qat"])
    good = abs(gain - q("S15.gain")) <= near and abs(loss - q("S15.loss")) <= near
    measured = f"QAT minus PTQ {gained}; FP32 minus QAT {lost}"
    return Judgement(verdict_of(good, gain > 0), measured, scores.records, NOT_DIV2K)


def _frame_rate(evidence: Evidence) -> Judgement:
    every = evidence.records.get(("latency", "abpn-int8-ptq"), [])
    if not (timed := [record for record in every if record.get("size") == "640x360"]):
        raise Absent("ABPN in INT8 has not been timed at 640x360")
    best = min(timed, key=lambda record: record.value)
    rate, device = 1000 / best.value, best.context.device
    threads = f", {best.get('threads', 1)} thread(s)" if best.kind != "estimated" else ""
    measured = f"{rate:.1f} frames/s ({milliseconds([best])}{threads})"
    if rate >= q("S17.frames"):
        return Judgement("reproduced", measured, (best,), f"On {device}, not on the paper's NPU.")
    why = f"{device} is not the paper's NPU, and a slower device cannot refute the claim. "
    return Judgement("not testable here", measured, (best,), f"{why}Table 2's 36.8 ms are 27.2 frames/s.")


_OWN = {
    "anchor": _anchor, "fewer_pairs": _fewer_pairs, "no_clip": _no_clip, "drops": _drops, "level": _level, "qat": _qat,
    "frame_rate": _frame_rate,
}


def anchor(id: str) -> str:
    """The ledger page's reference target of a claim: ``claim-t2-abpn-int8`` for T2.abpn.int8."""
    return "claim-" + id.lower().replace(".", "-")


def to_json(entries: Sequence[tuple[Claim, Judgement]]) -> str:
    """The ledger as a JSON list: for each claim the paper's values, the rule, the verdict and the records."""
    rows = [
        {
            "id": entry.id, "section": entry.section, "where": entry.where, "statement": entry.statement,
            "paper": [asdict(paper.quoted(id)) for id in entry.quoted], "compared": entry.compared, "rule": entry.rule,
            "verdict": judgement.verdict, "measured": judgement.measured, "why": judgement.why,
            "records": [{"id": record.id, **asdict(record)} for record in judgement.records],
        }
        for entry, judgement in entries
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False)
