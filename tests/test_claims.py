from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from abpn_lib import claims, paper
from abpn_lib.claims.evidence import Evidence
from abpn_lib.claims.ledger import rule_of, score_rule
from abpn_lib.claims.shapes import Npus
from abpn_lib.files import InputError
from abpn_lib.results import Context, Record, columns_of

# The document of claims, row by row.
NODES = (
    "split", "concat", "add", "multiply", "max-pool", "average-pool", "conv3", "conv1", "relu", "leaky-relu", "nearest",
    "bilinear",
)
TABLE2 = ("baseline", "nearest", "bilinear", "fsrl", "abpn")
TEAMS = ("abpn", "deepernewbie", "jeremieg", "richlaji", "xindongzhang")
DOCUMENT = [
    *(f"T1.{node}" for node in NODES),
    *(f"T2.{row}.{column}" for row in TABLE2 for column in ("params", "fp32", "int8", "ms")),
    *(f"T3.{row}.{column}" for row in ("fsrcnn", "abpn") for column in ("cpu", "gpu", "nnapi", "psnr")),
    *(f"T4.{row}.{column}" for row in TEAMS for column in ("psnr", "ssim", "ms", "score")),
    *(
        f"F3.{image}.{method}.{column}"
        for image in ("img004", "img091") for method in ("bicubic", "fsrcnn", "abpn") for column in ("psnr", "ssim")
    ),
    *(f"S{i}" for i in range(1, 22)),
]

# A phone's GPU, another team's network on unpublished images: no record can say anything of these.
NEVER = {
    *(f"T3.{row}.{column}" for row in ("fsrcnn", "abpn") for column in ("gpu", "nnapi")),
    *(id for id in DOCUMENT if id.startswith("T4.") and not id.endswith(".score")),
}
ARITHMETIC = {id for id in DOCUMENT if id.startswith("T4.") and id.endswith(".score")}


def record(
    quantity: str, subject: str, value: float, unit: str = "", count: int = 1, **conditions: str | int
) -> Record:
    context = Context(f"abpn test {subject}", "a CPU", {}, "abc", "2026-01-01")
    return Record(quantity, value, unit, {**columns_of(subject), **conditions}, context, count)


def with_columns(record: Record, **columns: str | int) -> Record:
    return replace(record, columns={**record.columns, **columns})


def psnr(subject: str, value: float, dataset: str = "set5", **conditions: str) -> Record:
    return record("psnr", subject, value, "dB", 5, dataset=dataset, protocol="rgb-border1", **conditions)


def time(subject: str, ms: float, size: str) -> Record:
    return record("latency", subject, ms, "ms", 15, size=size, threads=1, kernels="xnnpack")


def estimated(subject: str, ms: float, size: str, npus: Iterable[int] = range(4), refused: str = "") -> list[Record]:
    """What a compiler says for those of the ledger's NPUs; with `refused`, what each leaves to the CPU."""
    quantity, value = ("npu-refused", 1.0) if refused else ("npu-latency", ms)
    columns = [{**paper.NPUS["devices"][number], "compiler": "Vela", "size": size} for number in npus]
    also = {"refused": refused} if refused else {}
    return [replace(record(quantity, subject, value, "ms", **each, **also), kind="estimated") for each in columns]


def q(id: str) -> float:
    return paper.quoted(id).number


def world(
    decibels: Mapping[str, float], network_ms: Mapping[str, float], node_ms: Mapping[str, float],
    parameters: Mapping[str, float], sizes: Mapping[str, float], crops: Mapping[str, float],
    noclip: float, anchor: float, recipe: Mapping[str, Mapping[str, str]], steps: Mapping[str, float],
) -> list[Record]:
    """All records that any rule reads."""
    return [
        *(psnr(name, value + offset, dataset)
          for dataset, offset in (("set5", 1.0), ("urban100", -3.0)) for name, value in decibels.items()),
        *(psnr("abpn-int8-noclip", noclip, dataset, reading="raw") for dataset in ("set5", "urban100")),
        *(time(name, ms, "640x360") for name, ms in network_ms.items()),
        *(time(f"node-{name}", ms, "1920x1080") for name, ms in node_ms.items()),
        *(each for name, ms in network_ms.items() for each in estimated(name, ms, "640x360")),
        *(each for name, ms in node_ms.items() for each in estimated(f"node-{name}", ms, "1920x1080")),
        *(record("parameters", name, count) for name, count in parameters.items()),
        *(record("size", name, size, "bytes") for name, size in sizes.items()),
        *(record(quantity, subject, value + 5 * (quantity == "psnr"), "", dataset="urban100", image=f"{image}_SRF_4_HR",
                protocol="rgb-border1")
          for image in ("img_004", "img_091") for key, value in crops.items()
          for quantity, subject in (key.split("/"),)),
        record("anchor-difference", "abpn", anchor, "levels"),
        *(record("training-steps", name, steps[name], "batches", **conditions) for name, conditions in recipe.items()),
    ]


def as_in_the_paper() -> list[Record]:
    decibels = {f"{n}-fp32": q(f"T2.{n}.fp32") for n in TABLE2}
    decibels |= {f"{n}-int8-ptq": q(f"T2.{n}.int8") for n in TABLE2}
    decibels |= {"abpn-int8-qat": q("T3.abpn.psnr"), "fsrcnn-int8-ptq": q("T3.fsrcnn.psnr")}
    decibels["abpn-int8-ptq-tensor"] = decibels["abpn-int8-ptq"]
    decibels |= {"ablation-reference-fp32": 30.0, "ablation-leaky-fp32": 30.02, "ablation-batchnorm-fp32": 29.8}
    network_ms = {f"{n}-int8-ptq": q(f"T2.{n}.ms") for n in TABLE2}
    network_ms |= {"fsrcnn-int8-ptq": 36.8 * 149.2 / 235.0, "abpn-fp32": 110.0, "node-concat9-lr": 10.6}
    network_ms |= {f"abpn-int8-pairs{n}": 36.7 for n in range(5)}
    method = {"psnr/bicubic": 15.21, "psnr/fsrcnn-int8-ptq": 15.14, "psnr/abpn-int8-qat": 16.02,
              "ssim/bicubic": 0.3223, "ssim/fsrcnn-int8-ptq": 0.3374, "ssim/abpn-int8-qat": 0.5347}
    fp32 = {"batch": "16", "patch": "64", "init": "he", "lr": "0.001", "schedule": "halving", "data": "div2k-train"}
    return world(
        decibels, network_ms, {n: q(f"T1.{n}") for n in NODES},
        {**dict.fromkeys(TABLE2, 42_539), "abpn-as-worded": 42_541}, {"abpn-fp32": 176_000, "abpn-int8-ptq": 50_000},
        method, 15.0, 0.0,
        {"abpn-fp32": fp32, "abpn-int8-qat": {"lr": "0.0001", "schedule": "halving", "data": "div2k-train"}},
        {"abpn-fp32": 1_000_000, "abpn-int8-qat": 200_000},
    )


def contrary() -> list[Record]:
    decibels = {f"{n}-fp32": value for n, value in zip(TABLE2, (31.0, 29.0, 28.0, 30.0, 32.0), strict=True)}
    decibels |= {f"{n}-int8-ptq": value for n, value in zip(TABLE2, (31.0, 26.0, 27.0, 28.0, 27.0), strict=True)}
    decibels |= {"abpn-int8-ptq-tensor": 28.0, "abpn-int8-qat": 25.0, "fsrcnn-int8-ptq": 30.0}
    decibels |= {"ablation-reference-fp32": 30.0, "ablation-leaky-fp32": 30.5, "ablation-batchnorm-fp32": 30.4}
    network_ms = {f"{n}-int8-ptq": 10_000 / q(f"T2.{n}.ms") for n in TABLE2}
    network_ms |= {"fsrl-int8-ptq": 200.0, "fsrcnn-int8-ptq": 900.0, "abpn-fp32": 100.0, "node-concat9-lr": 0.1}
    network_ms |= {f"abpn-int8-pairs{n}": 20.0 * n for n in range(5)}
    method = {"psnr/bicubic": 16.0, "psnr/fsrcnn-int8-ptq": 17.0, "psnr/abpn-int8-qat": 15.0,
              "ssim/bicubic": 0.5, "ssim/fsrcnn-int8-ptq": 0.4, "ssim/abpn-int8-qat": 0.3}
    other = {"batch": "8", "patch": "32", "init": "identity", "lr": "0.002", "schedule": "cosine", "data": "train"}
    return world(
        decibels, network_ms, {n: 100 / q(f"T1.{n}") for n in NODES} | {"conv3": 300.0},
        {**dict.fromkeys(TABLE2, 43_035), "abpn-as-worded": 43_035}, {"abpn-fp32": 50_000, "abpn-int8-ptq": 176_000},
        method, 30.0, 3.0, {"abpn-fp32": other, "abpn-int8-qat": other}, {"abpn-fp32": 12_000, "abpn-int8-qat": 500},
    )


def verdicts(records: Iterable[Record]) -> dict[str, str]:
    return {claim.id: judgement.verdict for claim, judgement in claims.ledger(records)}


def verdict(id: str, records: Iterable[Record]) -> str:
    return claims.judge(id, records).verdict


def on_one_device(id: str, records: Iterable[Record]) -> str:
    """The verdict of the rule that is applied to each NPU, by times of a CPU."""
    rule = claims.claim(id).shape
    assert isinstance(rule, Npus)
    return rule.rule.judge(Evidence(records)).verdict


def test_every_row_of_the_document_has_one_claim() -> None:
    assert [claim.id for claim in claims.claims()] == DOCUMENT


def test_each_claim_is_whole() -> None:
    for claim in claims.claims():
        assert claim.section in paper.SECTIONS, claim.id
        assert claim.statement, claim.id
        assert claim.where, claim.id
        assert claim.rule, claim.id
        assert claim.quoted, claim.id
        assert set(claim.quoted) <= set(paper.QUOTED), claim.id


@pytest.mark.parametrize(("content", "part"), [
    ({"shape": "diffrence", "what": "x"}, "'diffrence'"),
    ({"shape": "ratio", "wat": "x"}, "shape ratio"),
    ({}, "None"),
])
def test_a_rule_that_no_shape_takes(content: dict[str, str], part: str) -> None:
    with pytest.raises(InputError, match=part):
        rule_of(content)


def test_a_rule_says_what_its_code_asks() -> None:
    content = {"shape": "difference", "what": "A gain", "above": ["a"], "below": ["b"], "good": [-0.05, 0.05]}
    assert rule_of(content).text == "A gain. Reproduced: -0.05 to 0.05 dB; there is no partly."


def test_without_records_nothing_is_testable_and_each_says_why() -> None:
    for claim, judgement in claims.ledger([]):
        if claim.id in ARITHMETIC:
            continue
        assert judgement.verdict == "not testable here", claim.id
        assert judgement.why, claim.id
        assert judgement.records == ()


def test_the_papers_own_world_reproduces_every_claim() -> None:
    found = verdicts(as_in_the_paper())
    expected = {id: "not testable here" if id in NEVER else "reproduced" for id in DOCUMENT}
    assert found == expected


def test_a_contrary_world_reproduces_none() -> None:
    found = verdicts(contrary())
    assert [id for id in DOCUMENT if found[id] == "reproduced" and id not in ARITHMETIC] == []
    # Other training cannot refute a description.
    harmless = NEVER | ARITHMETIC | {"S20", "S21"}
    assert [id for id in DOCUMENT if found[id] == "not testable here" and id not in harmless] == []
    assert sum(verdict == "not reproduced" for verdict in found.values()) > 30


def test_judgements_name_the_records_they_rest_on() -> None:
    for claim, judgement in claims.ledger(as_in_the_paper()):
        assert bool(judgement.records) == (claim.id not in NEVER | ARITHMETIC), claim.id


def test_the_records_order_does_not_matter() -> None:
    records = as_in_the_paper()
    assert verdicts(records) == verdicts(records[::-1])


def test_a_measured_record_goes_before_a_recorded_one() -> None:
    shipped = record("parameters", "abpn", 42_539)
    fresh = replace(shipped, value=43_035, kind="measured")
    assert verdict("T2.abpn.params", [shipped]) == "reproduced"
    assert verdict("T2.abpn.params", [shipped, fresh]) == "not reproduced"


@pytest.mark.parametrize(("psnr_value", "ms", "printed", "expected"), [
    (29.87, 36.89, "92.72", "reproduced"), (29.87, 36.89, "92.73", "not reproduced"),
    (29.86, 36.89, "92.72", "not reproduced"),
    (29.87, 36.89, "92.7", "reproduced"), (29.87, 36.89, "93", "reproduced"),
])
def test_score_is_judged_by_its_printed_digits(psnr_value: float, ms: float, printed: str, expected: str) -> None:
    quoted = [replace(paper.quoted("S15.gain"), value=value, text=text)
              for value, text in ((psnr_value, ""), (ms, ""), (None, printed))]
    assert score_rule(*quoted).judge(Evidence([])).verdict == expected


def test_scores_are_arithmetic_on_quoted_values() -> None:
    for id in ARITHMETIC:
        claim = claims.claim(id)
        assert claim.compared == "arithmetic"
        assert "computed from quoted values" in claims.judge(id, []).measured


@pytest.mark.parametrize(("drop", "expected"), [
    (0.13, "reproduced"), (0.22, "reproduced"), (0.30, "partly"), (0.60, "not reproduced"), (-0.30, "not reproduced"),
])
def test_int8_drop_of_abpn(drop: float, expected: str) -> None:
    assert verdict("T2.abpn.int8", [psnr("abpn-fp32", 28.0), psnr("abpn-int8-ptq", 28.0 - drop)]) == expected


def test_the_ranges_of_table_2_follow_its_printed_values() -> None:
    median = statistics.median(q(f"T2.{network}.fp32") for network in TABLE2)
    for network in TABLE2:
        lead, drop = q(f"T2.{network}.fp32") - median, q(f"T2.{network}.fp32") - q(f"T2.{network}.int8")
        near = max(0.10, 0.25 * drop)
        for column, number, good, fair in (("fp32", lead, 0.04, 0.15), ("int8", drop, near, 3 * near)):
            rule = paper.rules()[f"T2.{network}.{column}"]
            assert rule["good"] == pytest.approx([number - good, number + good])
            assert rule["fair"] == pytest.approx([number - fair, number + fair])


def test_the_mean_over_data_sets_decides() -> None:
    records = [psnr("abpn-fp32", 28.0), psnr("abpn-int8-ptq", 27.87)]
    assert verdict("T2.abpn.int8", records) == "reproduced"
    far = [psnr("abpn-fp32", 25.0, "urban100"), psnr("abpn-int8-ptq", 23.0, "urban100")]
    assert verdict("T2.abpn.int8", records + far) == "not reproduced"
    # A set on which only one of the two was measured has no say, nor has another protocol.
    assert verdict("T2.abpn.int8", records + far[:1]) == "reproduced"
    other = [with_columns(r, protocol="y-border3") for r in far]
    assert verdict("T2.abpn.int8", records + other) == "reproduced"


def test_further_seeds_count_and_are_told() -> None:
    pair = [psnr("abpn-int8-ptq", 28.4), psnr("fsrl-int8-ptq", 28.0)]
    alone = claims.judge("S8", pair)
    assert alone.verdict == "reproduced"
    assert "seeds" not in alone.measured
    more = [psnr("abpn-seed1-int8-ptq", 28.0), psnr("abpn-seed2-int8-ptq", 28.2), psnr("fsrl-seed1-int8-ptq", 28.0)]
    judged = claims.judge("S8", pair + more)
    assert judged.measured == "+0.20 dB (set5 +0.20; 3 seeds +0.00 to +0.40)"
    assert judged.verdict == "partly"
    assert all(record in judged.records for record in pair + more)
    # Another seed's value on other images is left out.
    assert claims.judge("S8", [*pair, replace(more[0], count=2)]).measured == alone.measured


def test_what_qat_adds_is_judged_on_one_run_s_weights() -> None:
    whole = [psnr("abpn-fp32", 28.13), psnr("abpn-int8-ptq-tensor", 28.0), psnr("abpn-int8-qat", 28.06)]
    assert verdict("S15", whole) == "reproduced"
    assert verdict("S15", [*whole, psnr("abpn-seed1-int8-ptq-tensor", 20.0)]) == "reproduced"


def test_means_over_different_images_are_not_subtracted() -> None:
    pair = [psnr("abpn-fp32", 28.0), replace(psnr("abpn-int8-ptq", 27.87), count=2)]
    assert verdict("T2.abpn.int8", pair) == "not testable here"
    # A fresh value on few images steps back where the shipped ones are complete.
    quick = replace(psnr("abpn-int8-ptq", 20.0), count=2, kind="measured")
    assert verdict("T2.abpn.int8", [quick, psnr("abpn-fp32", 28.0), psnr("abpn-int8-ptq", 27.87)]) == "reproduced"


def test_times_of_two_devices_are_not_compared() -> None:
    add, conv = time("node-add", 5.2, "1920x1080"), time("node-conv3", 4.3, "1920x1080")
    assert on_one_device("S1", [add, conv]) == "reproduced"
    elsewhere = replace(conv, context=replace(conv.context, device="another CPU"))
    assert on_one_device("S1", [add, elsewhere]) == "not testable here"
    assert on_one_device("S1", [add, with_columns(conv, threads=4)]) == "not testable here"
    assert on_one_device("S1", [add, with_columns(conv, size="640x360")]) == "not testable here"


def test_overlapping_intervals_are_not_ordered() -> None:
    add, conv = time("node-add", 5.2, "1920x1080"), time("node-conv3", 4.3, "1920x1080")
    wide = [replace(add, spread=(4.0, 6.0)), replace(conv, spread=(3.9, 4.6))]
    assert on_one_device("S1", wide) == "partly"
    assert on_one_device("S1", [replace(add, spread=(4.7, 6.0)), replace(conv, spread=(3.9, 4.6))]) == "reproduced"
    assert on_one_device("S1", [replace(add, value=3.0), conv]) == "not reproduced"


def test_place_among_the_nodes_by_degree() -> None:
    records = [time(f"node-{node}", q(f"T1.{node}"), "1920x1080") for node in NODES]
    assert on_one_device("T1.relu", records) == "reproduced"

    def with_relu_at(ms: float) -> list[Record]:
        return [replace(r, value=ms) if r.subject == "node-relu" else r for r in records]

    assert on_one_device("T1.relu", with_relu_at(3.0)) == "partly"
    assert on_one_device("T1.relu", with_relu_at(9.0)) == "not reproduced"
    # Split and multiply stand within 5 % of one another in the paper: their order is not asked for.
    swapped = [replace(r, value=9.0) if r.subject == "node-split" else r for r in records]
    assert on_one_device("T1.split", swapped) == "reproduced"


def test_relu_without_an_ablation_is_partly() -> None:
    times = [time("node-relu", 1.3, "1920x1080"), time("node-leaky-relu", 3.6, "1920x1080")]
    judgement = claims.claim("S3").shape.rule.judge(Evidence(times))
    assert judgement.verdict == "partly"
    assert "no ablation has been run yet" in judgement.why
    assert on_one_device("S3", [replace(r, value=2.0) for r in times]) == "not reproduced"
    assert "No ablation has been run yet" in claims.judge("S5", times).why


def test_one_differing_anchor_is_enough() -> None:
    same = record("anchor-difference", "abpn", 0.0, "levels", scale="3")
    assert verdict("S10", [same]) == "reproduced"
    assert verdict("S10", [same, record("anchor-difference", "abpn", 1.0, "levels", scale="2")]) == "not reproduced"


@pytest.mark.parametrize(("noclip", "expected"), [(19.9, "reproduced"), (24.0, "partly"), (27.5, "not reproduced")])
def test_clip_node(noclip: float, expected: str) -> None:
    records = [psnr("abpn-int8-noclip", noclip, reading="raw"), psnr("abpn-int8-ptq", 28.0)]
    assert verdict("S12", records) == expected
    # A model's output read by its scale is another quantity.
    assert verdict("S12", [psnr("abpn-int8-noclip", 10.0), psnr("abpn-int8-ptq", 28.0)]) == "not testable here"


def test_frame_rate() -> None:
    assert on_one_device("S17", [time("abpn-int8-ptq", 30.0, "640x360")]) == "reproduced"
    slow = claims.judge("S17", [time("abpn-int8-ptq", 100.0, "640x360")])
    assert slow.verdict == "not testable here"
    assert "10.0 frames/s" in slow.why
    fast, slow = (estimated("abpn-int8-ptq", ms, "640x360") for ms in (30.0, 100.0))
    assert verdict("S17", [*fast[:2], *slow[2:]]) == "partly"
    assert verdict("S17", slow) == "not reproduced"


# Claims about an NPU


def addition(npus: Iterable[int], ms: float) -> list[Record]:
    return estimated("node-add", ms, "1920x1080", npus) + estimated("node-conv3", 4.3, "1920x1080", npus)


@pytest.mark.parametrize(("agree", "expected"), [
    (4, "reproduced"), (3, "reproduced"), (2, "partly"), (1, "not reproduced"), (0, "not reproduced"),
])
def test_a_share_of_the_npus_must_agree(agree: int, expected: str) -> None:
    judgement = claims.judge("S1", addition(range(agree), 5.2) + addition(range(agree, 4), 2.0))
    assert judgement.verdict == expected
    assert f"{agree} of 4 NPUs agree" in judgement.measured
    assert judgement.device == "NPUs, estimated"


def test_a_cpu_decides_nothing_about_an_npu_and_stands_beside() -> None:
    slow = [time("node-add", 2.0, "1920x1080"), time("node-conv3", 4.3, "1920x1080")]
    alone = claims.judge("S1", slow)
    assert alone.verdict == "not testable here"
    assert "node-add 2 ms" in alone.why
    both = claims.judge("S1", slow + addition(range(4), 5.2))
    assert both.verdict == "reproduced"
    assert "beside, on a CPU: not reproduced" in both.measured
    assert all(record in both.records for record in slow)


def test_an_npu_is_asked_in_the_setup_that_the_rule_names() -> None:
    more = [with_columns(each, sram=2048) for each in addition([1], 2.0)]
    assert verdict("S1", addition(range(4), 5.2) + more) == "reproduced"
    assert verdict("S1", [with_columns(each, sram=99) for each in addition(range(4), 5.2)]) == "not testable here"


def test_what_an_npu_refuses_is_left_out() -> None:
    network = estimated("abpn-int8-ptq", 36.8, "640x360")
    shuffle = estimated("abpn-int8-ptq", 0, "640x360", refused="DEPTH_TO_SPACE")
    nearest = estimated("node-nearest", 57.6, "1920x1080", [2, 3])
    refused = estimated("node-nearest", 0, "1920x1080", [0, 1], "RESIZE_NEAREST_NEIGHBOR")
    refused += estimated("node-bilinear", 0, "1920x1080", refused="RESIZE_BILINEAR")
    judgement = claims.judge("S4", [*network, *shuffle, *nearest, *refused])
    assert judgement.verdict == "reproduced"
    assert "2 of 2 NPUs agree" in judgement.measured
    assert "ethos-u55-128: left out" in judgement.why
    # A network's estimate without one of its own operators is not its time.
    half = estimated("fsrl-int8-ptq", 0, "640x360", refused="RESIZE_BILINEAR, DEPTH_TO_SPACE")
    assert verdict("S9", network + estimated("fsrl-int8-ptq", 36, "640x360")) == "reproduced"
    assert verdict("S9", network + estimated("fsrl-int8-ptq", 36, "640x360") + half) == "not testable here"


def test_the_rules_name_their_npus_as_the_library_sets_them_up() -> None:
    from abpn_lib.timing import npu

    for device in paper.NPUS["devices"]:
        assert device.items() <= npu.NPUS[device["accelerator"]].columns.items()
        assert device["accelerator"] in claims.claim("S1").rule
    assert "first look" in claims.judge("S1", addition(range(4), 5.2)).why


def test_the_texts_own_parameter_count() -> None:
    built = [record("parameters", "abpn", 42_539), record("parameters", "abpn-as-worded", 43_035)]
    assert verdict("S19", built) == "partly"


def test_unknown_claim() -> None:
    with pytest.raises(InputError, match="S99"):
        claims.claim("S99")


def test_json_carries_rule_verdict_and_records() -> None:
    rows = json.loads(claims.to_json(claims.ledger(as_in_the_paper())))
    assert [row["id"] for row in rows] == DOCUMENT
    row = next(row for row in rows if row["id"] == "S10")
    assert row["verdict"] == "reproduced"
    assert row["rule"] == claims.claim("S10").rule
    assert row["records"][0]["context"]["command"] == "abpn test abpn"


def test_page_has_each_claim_its_counts_and_its_kinds() -> None:
    page = claims.page(claims.ledger(as_in_the_paper()))
    for id in DOCUMENT:
        assert page.count(f"({claims.anchor(id)})=") == 1
        assert page.count(f'<details class="claim" id="{claims.anchor(id)}"') == 1
    counts = [int(number) for number in re.findall(r"</span> (\d+)</label>", page)]
    assert sum(counts) == len(DOCUMENT)
    assert counts[3] == len(NEVER)
    assert "● recorded" in page
    assert "= 92.72, computed from quoted values" in page


def test_the_page_explains_the_fields_of_the_json() -> None:
    entries = claims.ledger(as_in_the_paper())
    explained = re.findall(r"<dt><code>(\w+)</code></dt>", claims.page(entries[:1]))
    assert {tuple(row) for row in json.loads(claims.to_json(entries))} == {tuple(explained)}


def hostile() -> list[Record]:
    """The paper's world, told by a stranger who would like to run something on the page."""
    attack = "`<img src=x onerror=alert(1)>`\n\n<script>alert(1)</script>"
    return [replace(with_columns(record, note=attack), context=replace(record.context, command=attack, device=attack))
            for record in as_in_the_paper()]


@pytest.mark.parametrize("records", [contrary(), hostile()], ids=["contrary", "hostile"])
def test_page_builds_without_a_warning(records: list[Record], tmp_path: Path) -> None:
    extensions = 'extensions = ["myst_parser"]\nmyst_enable_extensions = ["dollarmath", "substitution"]\n'
    (tmp_path / "conf.py").write_text(extensions)
    (tmp_path / "index.md").write_text(claims.page(claims.ledger(records)))
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-q", str(tmp_path), str(tmp_path / "out")],
        capture_output=True, text=True,
    )
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "out" / "index.html").read_text()
    for id in DOCUMENT:
        assert f'id="{claims.anchor(id)}"' in page, id
    assert "<img src=x" not in page
    assert "<script>alert" not in page


def test_judging_needs_no_tensorflow() -> None:
    code = "import sys, abpn_lib.claims.ledger; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
