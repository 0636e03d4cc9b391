from __future__ import annotations

import dataclasses
import operator
import re
from pathlib import Path

import pandas as pd
import pytest
from bs4 import BeautifulSoup, Tag

from abpn_lib import book, claims, paper, results
from abpn_lib.book.tables import inline
from abpn_lib.values import Value

CONTEXT = results.Context.here("abpn evaluate")


@pytest.fixture
def measured() -> results.Record:
    return CONTEXT.record("psnr", "abpn-int8-qat", 30.0567, "dB", dataset="embedded", protocol="rgb-border1")


def values(*numbers: float, kind: str = "measured", unit: str = "dB") -> list[Value]:
    return [Value(number, unit, kind, f"source of {number}") for number in numbers]


def parsed(shown: book.Html) -> BeautifulSoup:
    return BeautifulSoup(shown._repr_html_(), "html.parser")


def texts(tags: list[Tag]) -> list[str]:
    return [tag.get_text() for tag in tags]


def seen(tags: list[Tag]) -> list[str]:
    """Their texts as the eye reads them: without the words that are only read aloud."""
    shown = (tag.get_text().replace("\xa0", " ") for tag in tags)
    return [re.sub(r"(measured in this run|recorded full run|estimated by a compiler): ", "", text) for text in shown]


def test_the_four_kinds_never_look_alike(measured: results.Record) -> None:
    recorded, estimated = (dataclasses.replace(measured, kind=kind) for kind in ("recorded", "estimated"))
    cells = [measured.shown, recorded.shown, paper.value("T2.abpn.int8"), estimated.shown]
    assert len({str(cell).strip("“”■●◇ ")[:2] for cell in cells}) == 1, "all four show about 30 dB"
    assert [str(cell)[0] for cell in cells] == ["■", "●", "“", "◇"]
    spans = [BeautifulSoup(inline(cell), "html.parser").span for cell in cells]
    assert [span["class"][1] for span in spans] == [f"kind-{cell.kind}" for cell in cells]
    assert "estimated by a compiler" in spans[3].get_text()
    assert "measured in this run" in spans[0].get_text(), "the kind is read aloud, not only seen"
    assert measured.id in spans[0]["title"]
    assert "abpn evaluate" in spans[0]["title"]
    assert paper.quoted("T2.abpn.int8").where in spans[2]["title"]


def test_a_table_names_its_rows_and_columns(measured: results.Record) -> None:
    page = parsed(book.table([["ABPN <INT8>", measured.shown, None]], ["model", "PSNR", "SSIM"], caption="PSNR & more"))
    assert page.caption.get_text() == "PSNR & more"
    assert [cell["scope"] for cell in page.find_all("th")] == ["col", "col", "col", "row"]
    assert page.find("th", scope="row").get_text() == "ABPN <INT8>"
    assert page.find_all("td")[1].get_text() == "not recorded", "a missing cell says so by itself"
    assert page.div["aria-labelledby"] == page.caption.span["id"]
    assert page.div["tabindex"] == "0", "a keyboard can scroll it"


def test_a_frame_becomes_a_table_whose_index_names_the_rows() -> None:
    index = pd.MultiIndex.from_product([["set5", "set14"], ["abpn", "fsrl"]], names=["dataset", "network"])
    frame = pd.DataFrame({"fp32": [*values(1, 2, 3), float("nan")]}, index=index)
    page = parsed(book.table(frame, caption="PSNR", rename={"abpn": "ABPN", "fp32": "FP32"}, digits={"FP32": 0}))
    assert seen(page.find_all("th", scope="col")) == ["Network", "■ FP32 [dB]"], "unit and kind stand in the heading"
    assert [(row.th["scope"], *seen(row.find_all(["th", "td"]))) for row in page.tbody.find_all("tr")] == [
        ("rowgroup", "set5"), ("row", "ABPN", "1"), ("row", "fsrl", "2"),
        ("rowgroup", "set14"), ("row", "ABPN", "3"), ("row", "fsrl", "not recorded"),
    ]


def test_a_heading_says_only_what_all_values_below_it_share() -> None:
    (small, long), (other,) = values(-1, 2.25), values(3, kind="recorded")
    rows = [("a", small.rounded(0), small, "1.0 to 2.0 ms"), ("b", long, other, "-3.0 to 4.0 ms")]
    page = parsed(book.table(rows, ["", "one kind", "two kinds", "interval"], caption="PSNR"))
    assert seen(page.find_all("th", scope="col")) == ["■ one kind [dB]", "two kinds [dB]", "interval [ms]"]
    first, second = (row.find_all("td") for row in page.tbody.find_all("tr"))
    assert seen(first) == ["−1", "■ −1.00", "1.0 to 2.0"]
    assert seen(second) == ["2.25", "● 3.00", "−3.0 to 4.0"]
    assert first[0]["data-pad"] == ".00", "the room that 2.25 takes after its point"
    mixed = parsed(book.table([("a", small), ("b", values(1, unit="ms")[0])], ["", "both"], caption="Units"))
    assert seen(mixed.tbody.find_all("td")) == ["−1.00 dB", "1.00 ms"], "units that differ stay with their numbers"
    rate = parsed(book.table([("a", values(1, unit="1/s")[0])], ["", "rate"], caption="Rates"))
    assert seen(rate.find_all("th", scope="col")) == ["■ rate [1/s]"]


def test_neighbours_share_the_name_of_their_group() -> None:
    row = ("a", *values(1, 2), *values(3, unit="ms"))
    page = parsed(book.table([row], ["", "PSNR, here", "PSNR, there", "time, here"], caption="Two"))
    assert [(cell["colspan"], *seen([cell])) for cell in page.find_all("th", scope="colgroup")] == [("2", "PSNR [dB]")]
    assert seen(page.find_all("th", scope="col")) == ["■ time, here [ms]", "■ here", "■ there"]


def test_the_best_is_set_apart_below_each_outer_label() -> None:
    index = pd.MultiIndex.from_product([["set5", "set14"], ["abpn", "fsrl", "x"]], names=["dataset", "network"])
    frame = pd.DataFrame({"PSNR": values(1, 2, 1.999, 5, 4, 3), "ms": values(1, 2, 3, 4, 5, 6, unit="ms")}, index=index)
    page = parsed(book.table(frame, caption="PSNR", best={"dB": max, "ms": min}))
    assert seen(page.find_all("td", class_="best")) == [
        "1.00", "2.00", "2.00", "5.00", "4.00",
    ], "as shown, 1.999 is equal"


@pytest.mark.parametrize("number", [30.09, 30, pd.Series([1.5])[0]])
def test_a_bare_number_is_refused(number: float) -> None:
    with pytest.raises(TypeError, match="as a Value"):
        book.table([["ABPN", number]], ["model", "PSNR"], caption="PSNR")
    with pytest.raises(TypeError, match="bare number"):
        book.bars(["ABPN"], {"here": {"ABPN": number}}, quantity="PSNR")


def test_a_table_without_rows_is_one_sentence() -> None:
    shown = book.table([], ["model", "time"], caption="A phone", absent="no phone was measured")
    assert shown.html == "<p>A phone: no phone was measured.</p>"


def test_a_short_row_and_an_empty_caption_are_refused() -> None:
    with pytest.raises(ValueError, match="needs 2 cells"):
        book.table([["ABPN"]], ["model", "PSNR"], caption="PSNR")
    with pytest.raises(ValueError, match="caption"):
        book.table([], ["model"], caption="")


def test_the_papers_values_and_ours_are_compared_side_by_side_and_never_mixed() -> None:
    said, ours = paper.table("T2").fp32, pd.Series(dict(zip(paper.TABLE2, values(31, 32, 33, 34), strict=False)))
    rows = {"abpn": "ABRL", "bilinear": "bilinear", "baseline": "baseline"}
    page = parsed(book.compare(rows, {"FP32": (said, ours)}, "FP32 of three networks"))
    assert seen(page.find_all("th", scope=True)[:4]) == ["Network", "FP32 [dB]", "“paper”", "■ here"]
    assert seen(page.tbody.tr.find_all(["th", "td"])) == ["ABRL", "30.22", "not recorded"]
    with pytest.raises(TypeError, match="mixes"):
        book.compare(rows, {"FP32": (ours, said)}, "the wrong way round")
    with pytest.raises(TypeError, match="never subtracted"):
        said - ours


def test_means_and_ranges_over_a_level() -> None:
    index = pd.MultiIndex.from_product([["abpn", "fsrl"], [0, 1]], names=["network", "seed"])
    frame = pd.DataFrame({"PSNR": [*values(1, 2, 4), float("nan")]}, index=index)
    assert book.mean(frame, "seed").PSNR.astype(float).to_dict() == {"abpn": 1.5, "fsrl": 4}
    assert book.mean(frame.PSNR["abpn"], "seed").number == 1.5
    table = book.mean_and_range(frame, "seed")
    assert list(table) == ["PSNR, mean", "PSNR, from and to"]
    assert list(book.mean_and_range(frame[:2], "seed")["PSNR, range of 2 seeds"]) == ["1.00 to 2.00 dB"]
    assert list(table["PSNR, from and to"]) == ["1.00 to 2.00 dB (2 seeds)", "4.00 to 4.00 dB (1 seed)"]


@pytest.mark.parametrize("other", ["measured", "recorded", "quoted"])
def test_an_estimated_value_meets_no_other_kind_in_a_column_or_a_ratio(other: str) -> None:
    (estimated,), (value,) = values(31.1, kind="estimated", unit="ms"), values(36.8, kind=other, unit="ms")
    for combine in (operator.sub, operator.truediv):
        for pair in ((estimated, value), (value, estimated)):
            with pytest.raises(TypeError, match="stand side by side"):
                combine(*pair)
    with pytest.raises(TypeError, match="stand side by side"):
        book.mean(pd.Series([estimated, value], index=pd.Index(["a", "b"], name="device")), "device")
    with pytest.raises(TypeError, match="'time' mixes estimated"):
        book.table([("NPU", estimated), ("CPU", value)], ["device", "time"], caption="Two kinds in one column")
    book.table([("ABPN", estimated, value)], ["network", "NPU", "other"], caption="A column for each kind")
    assert (estimated - estimated / 2).kind == "estimated"


def test_a_note_shows_the_kind_of_its_values(measured: results.Record) -> None:
    shown = book.note("`abpn` reaches {0} <here>, {gap} away", measured.shown, gap=paper.value("S15.gain"))
    assert parsed(shown).code.get_text() == "abpn"
    assert [span["class"][1] for span in parsed(shown).find_all(class_="value")] == ["kind-measured", "kind-quoted"]
    assert str(shown.text) == "`abpn` reaches ■ 30.06 dB <here>, “0.06 dB” away"


def test_a_page_keeps_what_it_measures_and_falls_back_on_what_is_recorded(
    measured: results.Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABPN_RECORDS_OUT", str(tmp_path / "new"))
    page = book.page("table2")
    again = dataclasses.replace(measured, value=31.0)
    page.keep([measured])
    page.keep([again])
    assert results.load(tmp_path / "new" / "table2.json", "measured") == [again], "a cell may run twice"
    assert page.records == [again, *results.recorded()]
    found = page.frame("psnr", network="abpn", form="int8-qat", dataset=["embedded", "set5"]).set_index("dataset")
    assert found.kind.to_dict() == {"embedded": "measured", "set5": "recorded"}
    spread = page.pivot("psnr", "dataset", "form", network="abpn", seed=0, dataset=["set5", "embedded"],
                        form=["int8-qat", "fp32"])
    assert (list(spread.index), list(spread)) == (["set5", "embedded"], ["int8-qat", "fp32"]), "as they were asked for"


def test_a_page_begins_with_legend_data_and_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ABPN_DATA", str(tmp_path))
    page = book.page("table2")
    text = capsys.readouterr().out
    assert page.context.device in text
    assert "at hand in this run: embedded." in text
    assert "abpn data fetch set5" in text
    assert str(tmp_path) not in text
    assert page.first_at_hand("set5", "embedded") == "embedded"


def test_every_claim_has_a_line_that_says_its_verdict_and_opens_for_its_rule() -> None:
    entries = claims.ledger([])
    boxes = parsed(book.verdict_boxes(entries)).find_all("details")
    for (claim, judgement), box in zip(entries, boxes, strict=True):
        assert (box["data-claim"], box["data-verdict"]) == (claim.id, judgement.verdict)
        assert f"{book.SIGNS[judgement.verdict]} {claim.id} {judgement.verdict}" in box.summary.get_text()
        assert claim.rule not in box.summary.get_text()
        assert claim.rule in box.get_text()


def test_a_badge_says_its_verdict_by_sign_and_word_and_leads_to_the_ledger() -> None:
    entries = claims.ledger(results.recorded())
    assert len({book.SIGNS[judgement.verdict] for _, judgement in entries}) == len(book.SIGNS)
    badges = parsed(book.badges(entries, "claims.html")).find_all("a")
    for (claim, judgement), badge in zip(entries, badges, strict=True):
        assert badge["href"] == f"claims.html#{claims.anchor(claim.id)}"
        assert badge.get_text() == f"{book.SIGNS[judgement.verdict]} {claim.id} {judgement.verdict}"
        assert f"verdict-{judgement.verdict.replace(' ', '-')}" in badge["class"]
    assert not parsed(book.badges(entries)).find("a", href=True), "a plain notebook has no ledger to lead to"


def test_a_page_says_its_answer_in_short(measured: results.Record) -> None:
    shown = book.in_short("It reaches {}.", measured.shown, claims=["S8", "S10"], records=results.recorded())
    box = parsed(shown).find(class_="in-short")
    assert "measured in this run: ■\xa030.06 dB" in box.get_text()
    assert [badge["data-claim"] for badge in box.find_all("a")] == ["S8", "S10"]
    assert "<!--badges S8 S10-->" in shown.html
    assert "S8" in shown.text


def test_a_notebook_says_that_its_verdicts_rest_on_its_own_run() -> None:
    shown = book.verdicts(["S8", "S9"], results.recorded()).html
    assert shown.startswith("<!--verdicts S8 S9-->")
    assert shown.endswith("<!--/verdicts-->")
    assert "by this run alone" in shown
    entries = [(claims.claim(id), claims.judge(id, results.recorded())) for id in ("S8", "S9")]
    assert book.verdict_boxes(entries).html in shown
    assert "by this run alone" not in book.verdict_boxes(entries).html


def test_provenance_names_machine_versions_and_command(measured: results.Record) -> None:
    text = parsed(book.provenance([measured, measured])).get_text()
    assert "2 values" in text
    for part in (measured.context.device, measured.context.versions["numpy"], measured.context.command):
        assert part in text
