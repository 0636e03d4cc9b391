"""Of a style sheet the rules that a page can need."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import styles


@pytest.mark.parametrize(("sheet", "kept"), [
    (".a{color:red}", ".a{color:red}"),
    (".gone{color:red}", ""),
    (".a, .gone > b{color:red}", ".a{color:red}"),
    (".a:not(.gone){x:y}", ".a:not(.gone){x:y}"),
    ("b:is(.a, .gone){x:y}", "b:is(.a, .gone){x:y}"),
    ("#gone{x:y}", ""),
    ("p{x:y}", "p{x:y}"),
    ("@media print{.gone{x:y}}", ""),
    ("@media print{.a{x:y} .gone{x:y}}", "@media print{.a{x:y}}"),
    ("@font-face{font-family:F}", ""),
])
def test_rules_without_a_place_go(sheet: str, kept: str) -> None:
    assert styles.needed(sheet, {"a", "b"}) == kept


def test_a_pages_sheets_become_one_that_finds_their_files(tmp_path: Path) -> None:
    (tmp_path / "_static" / "styles").mkdir(parents=True)
    (tmp_path / "book").mkdir()
    (tmp_path / "_static" / "basic.css").write_text(".a{x:y}")
    (tmp_path / "_static" / "styles" / "theme.css").write_text(
        '@import "../basic.css"; .b{background:url("../dot.svg")} .c{background:url(data:image/png;base64,AA)}'
    )
    head = '<link href="../_static/styles/theme.css?v=1" rel="stylesheet" />\n<link rel="stylesheet" href="x.css">'
    page = tmp_path / "book" / "page.html"
    page.write_text(f'<head>{head}</head><p class="a b c">')
    styles.bundle(tmp_path)
    made, = (tmp_path / "_static").glob("site-*.css")
    assert f'<link rel="stylesheet" href="../_static/{made.name}">\n' in page.read_text()
    assert "theme.css" not in page.read_text()
    assert "x.css" in page.read_text(), "what is not the theme's stays"
    text = made.read_text()
    assert ".a{x:y}" in text
    assert 'url("dot.svg")' in text
    assert "url(data:image/png;base64,AA)" in text
