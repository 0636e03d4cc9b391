"""Prose becomes references, and references have previews."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tools import references

ROOT = Path(__file__).parents[1]
GLOSSARY = """# Glossary

```{glossary}
PSNR
  Decibels.

zero point
  An integer.
```
"""


def linked(text: str) -> str:
    return references.Linker({"S8", "T2.abpn.fp32"}, references.terms(GLOSSARY), {"03-c09"}).linked(text)


@pytest.mark.parametrize(("text", "shown"), [
    ("By S8 it holds.", "By {ref}`S8 <claim-s8>` it holds."),
    ("(T2.abpn.fp32).", "({ref}`T2.abpn.fp32 <claim-t2-abpn-fp32>`)."),
    ("No claim is S99.", "No claim is S99."),
    ("PSNR, and PSNR again.", "{term}`PSNR <PSNR>`, and PSNR again."),
    ("Zero points differ.", "{term}`Zero points <zero point>` differ."),
    ("See [this table](#03-c09).", "See {numref}`03-c09`."),
])
def test_what_prose_names_becomes_a_reference(text: str, shown: str) -> None:
    assert linked(text) == shown


@pytest.mark.parametrize("text", [
    "## PSNR by S8", "`PSNR` of `S8`", "[PSNR](protocol.md)", "{cite}`S8`", "```python\nPSNR = S8\n```", "(claim-S8)=",
    '<details class="more"><summary>PSNR</summary>', "https://example.org/S8", "a-PSNR-b", "[a section](#with-slurm)",
])
def test_code_headings_and_links_stay_as_they_are(text: str) -> None:
    assert linked(text) == text


def test_the_book_refers_to_the_glossary() -> None:
    site = ROOT / "_build" / "html"
    if not (site / "book" / "glossary.html").is_file():
        pytest.skip("the book is not built: make book")
    there = {term.replace(" ", "-") for term in references.terms((ROOT / "book" / "glossary.md").read_text()).values()}
    pages = (path.read_text() for path in site.glob("*/*.html"))
    used = {found for page in pages for found in re.findall(r'glossary\.html#term-([\w-]+)"><span', page)}
    assert used <= there
    assert len(used) > 20


def test_previews_tell_what_stands_at_the_targets_that_pages_refer_to(tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    (tmp_path / "_static").mkdir()
    (tmp_path / "book" / "glossary.html").write_text(
        '<dl><dt id="term-PSNR">PSNR<a class="headerlink" href="#term-PSNR">¶</a></dt><dd><p>Decibels &amp; all.</p>'
        '</dd><dt id="term-unused">unused</dt><dd><p>-</p></dd></dl>'
    )
    (tmp_path / "book" / "page.html").write_text('<a class="reference" href="glossary.html#term-PSNR">PSNR</a>')
    references.write_previews(tmp_path)
    script = (tmp_path / "_static" / "preview-data.js").read_text()
    told = json.loads(script.removeprefix("globalThis.previews = ").rstrip(";\n"))
    assert told == {"book/glossary.html#term-PSNR": "<strong>PSNR</strong>: <p>Decibels &amp; all.</p>"}


def test_every_preprint_of_the_bibliography_has_a_doi() -> None:
    entries = re.split(r"\n(?=@)", (ROOT / "book" / "references.bib").read_text())
    assert len(entries) > 30
    preprints = {entry.split(",")[0]: entry for entry in entries if "arxiv.org" in entry}
    assert [key for key, entry in preprints.items() if not re.search(r"^ *doi ", entry, re.M)] == []
