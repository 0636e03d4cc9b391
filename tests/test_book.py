from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from abpn_lib import paper, results
from abpn_lib.book.page import page as book
from abpn_lib.claims.ledger import ledger as claims


@pytest.fixture
def measured() -> results.Record:
    conditions = {"dataset": "embedded", "protocol": "authors"}
    return results.Context.here("abpn evaluate").record("psnr", "abpn-int8-qat", 30.0567, "dB", conditions=conditions)


def _text(shown: book.Html | book.Value) -> str:
    return BeautifulSoup(shown._repr_html_(), "html.parser").get_text()


def test_the_three_kinds_never_look_alike(measured: results.Record) -> None:
    recorded = dataclasses.replace(measured, kind="recorded")
    values = [book.value(measured), book.value(recorded), book.quoted("T2.abpn.int8")]
    assert len({str(value).strip("“”■● ")[:2] for value in values}) == 1, "all three show about 30 dB"
    assert [str(value)[0] for value in values] == ["■", "●", "“"]
    classes = [BeautifulSoup(value._repr_html_(), "html.parser").span["class"][1] for value in values]
    assert classes == ["kind-measured", "kind-recorded", "kind-quoted"]
    assert "measured in this run" in _text(values[0]), "the kind is read aloud, not only seen"


def test_a_value_says_where_it_comes_from(measured: results.Record) -> None:
    shown = BeautifulSoup(book.value(measured)._repr_html_(), "html.parser").span
    assert measured.id in shown["title"]
    assert "abpn evaluate" in shown["title"]
    quote = BeautifulSoup(book.quoted("T2.abpn.int8")._repr_html_(), "html.parser").span
    assert paper.quoted("T2.abpn.int8").where in quote["title"]


def test_digits_and_unit(measured: results.Record) -> None:
    assert str(book.value(measured, digits=1)) == "■ 30.1 dB"
    assert str(book.missing("no record")) == "no record"


def test_a_table_names_its_rows_and_columns(measured: results.Record) -> None:
    shown = book.table([["ABPN <INT8>", book.value(measured)]], ["model", "PSNR"], "PSNR on the embedded images")
    page = BeautifulSoup(shown._repr_html_(), "html.parser")
    assert page.caption.get_text() == "PSNR on the embedded images"
    assert [cell["scope"] for cell in page.find_all("th")] == ["col", "col", "row"]
    assert page.find("th", scope="row").get_text() == "ABPN <INT8>"
    assert page.div["aria-labelledby"] == page.caption["id"]


def test_a_bare_number_in_a_table_is_refused() -> None:
    with pytest.raises(TypeError, match="as a Value"):
        book.table([["ABPN", 30.09]], ["model", "PSNR"], "PSNR")  # type: ignore[list-item]


def test_a_short_row_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 2 cells"):
        book.table([["ABPN"]], ["model", "PSNR"], "PSNR")


def test_kept_records_come_back_first_and_as_measured(
    measured: results.Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABPN_RECORDS_OUT", str(tmp_path / "new"))
    assert book.load_all() == results.recorded()
    assert book.keep("table2", [measured]) == [measured]
    assert book.load_all() == [measured, *results.recorded()]


def test_provenance_names_machine_versions_and_command(measured: results.Record) -> None:
    text = _text(book.provenance([measured, measured]))
    assert "2 values" in text
    for part in (measured.device, measured.versions["numpy"], measured.command):
        assert part in text


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_has_a_box_even_without_records(claim: claims.Claim) -> None:
    text = _text(book.verdict(claim.id, []))
    assert claim.id in text
    assert claim.rule in text
    assert claim.judge([]).verdict in text


def test_an_unknown_claim_is_refused() -> None:
    with pytest.raises(KeyError, match="T9"):
        book.verdict("T9", [])


def test_the_data_note_tells_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABPN_DATA", str(tmp_path))
    text = _text(book.data_note())
    assert "at hand in this run: embedded." in text
    assert "abpn data fetch set5" in text
    assert str(tmp_path) not in text
