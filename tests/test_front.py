"""The opening page: its parts as they are made, and, where the book is built, in a browser."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

from abpn_lib import book, claims, results
from abpn_lib.book import diagrams
from tools import front

SITE = Path(__file__).parents[1] / "_build" / "html"
JUDGED = claims.ledger(results.recorded())


def parsed(text: str) -> BeautifulSoup:
    return BeautifulSoup(text, "html.parser")


def test_the_bar_counts_every_claim_once_and_leads_into_the_ledger() -> None:
    parts = parsed(front.bar(JUDGED)).find_all("a")
    counts = [int(part.b.get_text().split()[1]) for part in parts]
    assert sum(counts) == len(JUDGED)
    for part, count in zip(parts, counts, strict=True):
        verdict = part.span.get_text()
        assert count == sum(judgement.verdict == verdict for _, judgement in JUDGED)
        assert part["href"] == f"claims.html?verdict={verdict.replace(' ', '+')}#claims"


def test_a_finding_has_a_number_a_picture_in_words_and_is_left_out_without_its_records() -> None:
    context = results.Context.here("a test")
    shipped = front.findings(book.Page("index", context))
    clip = [
        context.record("psnr", "abpn-int8-noclip", 22.0, "dB", dataset="embedded", protocol="rgb-border1", reading=way)
        for way in ("raw", "scaled", "saturating")
    ]
    assert all(finding.page != "08-clip-node" for finding in shipped)
    found = front.findings(book.Page("index", context, clip))
    assert {finding.page for finding in found} == {finding.page for finding in shipped} | {"08-clip-node"}
    for finding in found:
        assert (SITE.parents[1] / "notebooks" / f"{finding.page}.ipynb").is_file()
        assert len(parsed(finding.picture).svg["aria-label"]) > 20


def test_the_picture_shows_the_same_place_twice() -> None:
    right, left = parsed(front.picture()).find_all("img")
    assert "ABPN" in right["alt"]
    assert "repeated" in left["alt"]
    assert (right["width"], right["height"]) == (left["width"], left["height"])
    assert len(front.picture()) < 200_000, "the first page loads at once"


def test_the_papers_diagrams_are_legible_on_a_phone() -> None:
    shown = diagrams.residual_strategies().html + diagrams.architecture([("first", 3, 28), ("last", 28, 27)]).html
    drawings = parsed(shown).find_all("svg")
    assert len(drawings) == 5
    for drawing in drawings:
        assert int(drawing["width"]) <= 375 - 2 * 16, "it is not made smaller"
        assert all(int(text["font-size"]) >= 12 for text in drawing.find_all("text"))
        assert drawing["aria-label"]


# In a browser.


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    if not (SITE / "index.html").is_file():
        pytest.skip("the site is not built: run `make book`")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Silent, directory=SITE)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_the_opening_page_answers_in_one_screen(chromium: Any, address: str) -> None:
    page = chromium.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    page.goto(f"{address}book/index.html")
    for part in (".divided", ".claims-bar", ".findings", ".ways"):
        box = page.locator(part).bounding_box()
        assert box["y"] + box["height"] <= 800, part
    assert 4 <= page.locator(".findings li").count() <= 6
    page.locator(".divided input").press("Home")
    assert page.evaluate("document.querySelector('.divided').style.getPropertyValue('--at')") == "0%"
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_figure_shows_its_caption(scheme: str, chromium: Any, address: str) -> None:
    page = chromium.new_page(color_scheme=scheme)
    page.goto(f"{address}notebooks/09-ablations.html")
    assert page.locator("figure.themed figcaption").first.is_visible()
    page.close()


def test_one_switch_shows_the_code_of_every_page(chromium: Any, address: str) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{address}notebooks/01-network.html")
    code = page.locator("details.above-input .cell_input")
    assert code.count() > 5
    assert not code.first.is_visible()
    page.get_by_role("button", name="Show code").click()
    assert code.first.is_visible()
    assert not page.locator("details.above-input > summary").first.is_visible(), "no door at each cell"
    page.goto(f"{address}notebooks/06-table4-challenge.html")
    assert page.get_by_role("button", name="Hide code").get_attribute("aria-pressed") == "true"
    assert page.locator("details.above-input .cell_input").first.is_visible()
    context.close()


def test_without_a_script_the_code_is_there_folded_and_the_picture_still(chromium: Any, address: str) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}notebooks/01-network.html")
    summary = page.locator("details.above-input > summary").first
    assert summary.is_visible()
    summary.click()
    assert page.locator("details.above-input .cell_input").first.is_visible()
    page.goto(f"{address}book/index.html")
    assert page.locator(".divided img").count() == 2
    context.close()


def test_figure_3_stands_under_a_divider_that_zooms(chromium: Any, address: str) -> None:
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    page.goto(f"{address}notebooks/07-figure3-visual.html")
    figure = page.locator("figure.compared").first
    right = figure.locator(".divided img").first
    figure.get_by_role("combobox", name="Right").select_option(label="HR: the original")
    assert right.get_attribute("alt").endswith("HR: the original")
    assert figure.locator("[data-side=right]").inner_text() == "HR"
    figure.get_by_role("combobox", name="Left").select_option(index=1)
    slider = figure.get_by_role("slider")
    assert "FSRCNN" in slider.get_attribute("aria-label")
    width = right.bounding_box()["width"]
    figure.get_by_role("combobox", name="Zoom").select_option(label="×4")
    assert right.bounding_box()["width"] == pytest.approx(4 * width, rel=0.01)
    slider.press("End")
    box, frame = right.bounding_box(), figure.locator(".divided").bounding_box()
    assert box["x"] + box["width"] == pytest.approx(frame["x"] + frame["width"], abs=2), "the right edge is in sight"
    slider.press("ArrowUp")
    assert right.bounding_box()["y"] > box["y"], "and what lies higher comes down"
    page.close()


def test_without_a_script_figure_3_is_a_still_row(chromium: Any, address: str) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}notebooks/07-figure3-visual.html")
    assert page.locator("figure.compared").first.locator("img:visible").count() == 4
    context.close()


def test_a_page_opens_with_its_answer_and_is_not_long(chromium: Any, address: str) -> None:
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    notebooks = (SITE.parents[1] / "notebooks").glob("*.ipynb")
    answered = [path.stem for path in notebooks if "in_short(" in path.read_text()]
    assert len(answered) >= 8
    for name in answered:
        page.goto(f"{address}notebooks/{name}.html")
        assert page.locator(".in-short").bounding_box()["y"] < 400, name
        assert page.locator(".in-short a.claim-badge[href]").count() > 0, name
        assert page.locator("main").bounding_box()["height"] <= 5000, name
    page.close()
