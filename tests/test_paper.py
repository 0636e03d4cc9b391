from __future__ import annotations

import re

import pytest

from abpn_lib import paper


def test_every_table_cell_and_statement_is_there() -> None:
    ids = set(paper.QUOTED)
    expected = {f"T1.{node}" for node in paper.META_NODES}
    expected |= {f"T2.{network}.{column}" for network in paper.TABLE2 for column in ("params", "fp32", "int8", "ms")}
    expected |= {f"T3.{network}.{column}" for network in paper.COMPARED for column in ("cpu", "gpu", "nnapi", "psnr")}
    expected |= {f"T4.{team}.{column}" for team in paper.CHALLENGE for column in ("psnr", "ssim", "ms", "score")}
    expected |= {
        f"F3.{image}.{method}.{metric}"
        for image in ("img004", "img091") for method in paper.FIGURE3 for metric in ("psnr", "ssim")
    }
    expected |= {f"S{i}" for i in range(1, 22)}
    assert expected <= ids
    # What is left are the numbers inside statements.
    assert all(re.fullmatch(r"S\d+\.\w+", id) for id in ids - expected)


# Read off the paper once more, not off the module: from each table, the rows that are easily swapped included.
@pytest.mark.parametrize(("id", "value"), [
    ("T1.split", 9.8), ("T1.max-pool", 20.0), ("T1.average-pool", 13.1), ("T1.conv3", 4.3), ("T1.conv1", 2.9),
    ("T1.relu", 1.3), ("T1.leaky-relu", 3.6), ("T1.nearest", 57.6), ("T1.bilinear", 75.4),
    ("T2.baseline.int8", 28.28), ("T2.nearest.ms", 57.6), ("T2.bilinear.fp32", 30.24), ("T2.fsrl.int8", 29.49),
    ("T2.abpn.ms", 36.8), ("T3.fsrcnn.nnapi", 21.7), ("T3.abpn.cpu", 235.0), ("T3.abpn.psnr", 30.15),
    ("T4.jeremieg.ssim", 0.8537), ("T4.richlaji.ms", 62.25), ("T4.xindongzhang.score", 10.41),
    ("F3.img004.fsrcnn.psnr", 15.14), ("F3.img004.abpn.ssim", 0.5347), ("F3.img091.bicubic.ssim", 0.3761),
    ("S13.none", -1.93), ("S15.loss", 0.07), ("S17.frames", 27), ("S20.epsilon", 1e-8),
])
def test_quoted_values(id: str, value: float) -> None:
    assert paper.quoted(id).number == value


def test_printed_digits_are_the_value() -> None:
    for entry in paper.QUOTED.values():
        assert entry.where, entry.id
        if entry.value is not None and re.fullmatch(r"[+-]?[\d.]+(e-\d+)?", entry.text):
            assert float(entry.text) == entry.value, entry.id


def test_the_tables_agree_with_the_text() -> None:
    def drop(network: str) -> float:
        return round(paper.quoted(f"T2.{network}.int8").number - paper.quoted(f"T2.{network}.fp32").number, 2)

    assert drop("baseline") == paper.quoted("S13.none").number
    assert drop("fsrl") == paper.quoted("S13.fsrl").number
    assert drop("abpn") == drop("nearest") == drop("bilinear") == paper.quoted("S13.image").number
    abrl = paper.quoted("T1.concat").number + paper.quoted("T1.add").number
    assert abrl == pytest.approx(paper.quoted("S6.abrl").number)


def test_score_formula_gives_every_printed_score() -> None:
    for team in paper.CHALLENGE:
        psnr, ms, printed = (paper.quoted(f"T4.{team}.{column}") for column in ("psnr", "ms", "score"))
        assert f"{paper.score(psnr.number, ms.number):.2f}" == printed.text


def test_unknown_id_and_statement_without_number() -> None:
    with pytest.raises(KeyError, match=r"T9\.nothing"):
        paper.quoted("T9.nothing")
    with pytest.raises(ValueError, match="S1 is a statement"):
        _ = paper.quoted("S1").number
