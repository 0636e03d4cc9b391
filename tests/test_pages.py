"""The built site in a real browser: every page as wide as a desk and as a phone, light and dark.

Skipped where `make book` has not run, or no Chromium is installed.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

SITE = Path(__file__).parents[1] / "_build" / "html"
AXE = SITE.parent / "litert" / "axe.min.js"
PAGES = sorted(str(path.relative_to(SITE)) for place in ("book", "notebooks") for path in (SITE / place).glob("*.html"))
WIDTHS = (1920, 1280, 1024, 768, 375)
# Pixels at a width of 1280, folded parts aside.
LONGEST = 5000
# Bytes that a page loads before it is scrolled, compressed as servers do.
OPENING, HEAVIEST = 600_000, 1_000_000

pytestmark = pytest.mark.skipif(not PAGES, reason="the site is not built: run `make book`")

# Tables, figures and pictures of which a part cannot be seen, with the width that is missing.
CUT = """() => [...document.querySelectorAll(".bd-article :is(table, figure, img, svg, pre.mermaid)")]
  .filter(one => one.checkVisibility() && !one.closest("figure.divided"))
  .map(one => {
    let box = one.parentElement;
    while (box !== document.body && getComputedStyle(box).overflowX === "visible") box = box.parentElement;
    const [inner, outer] = [one.getBoundingClientRect(), box.getBoundingClientRect()];
    return [one.tagName, one.id || one.alt || "", Math.round(inner.right - outer.right)];
  }).filter(([, , missing]) => missing > 1)"""
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
VERSIONS = """Array.from(document.querySelectorAll('figure.themed')).map(figure =>
  Array.from(figure.querySelectorAll('img.only-light, img.only-dark'))
    .filter(image => getComputedStyle(image).display !== 'none').map(image => image.className))"""


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(120_000)  # a machine may be busy
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_every_screen_and_is_light(name: str, page: Any, address: str) -> None:
    loaded: set[str] = set()
    crashes: list[str] = []
    page.on("request", lambda request: loaded.add(request.url.partition("?")[0]))
    page.on("pageerror", lambda error: crashes.append(str(error)))
    page.on("console", lambda message: crashes.append(message.text) if message.type == "error" else None)
    page.goto(address + name, wait_until="networkidle")
    found, opening = set(loaded), name == "book/index.html"
    assert [url for url in found if not url.startswith((address, "data:", "blob:"))] == [], "a foreign request"
    assert sum(map(_weight, (url.removeprefix(address) for url in found if url.startswith(address)))) <= (
        OPENING if opening else HEAVIEST
    )
    assert page.evaluate("document.documentElement.scrollHeight") <= LONGEST, "longer than a reader scrolls"
    # What is folded fits too.
    page.evaluate("document.querySelectorAll('.bd-article details').forEach(fold => { fold.open = true; })")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate(WIDER) <= 0, f"{name} scrolls sideways at {width}"
            if width >= 1024:
                assert page.evaluate(CUT) == [], f"{name} at {width}"
        assert all(classes == [f"only-{scheme}"] for classes in page.evaluate(VERSIONS)), name
    assert not crashes


def _weight(name: str) -> int:
    content = (SITE / name).read_bytes()
    packed = name.endswith((".webp", ".png", ".jpg", ".woff2", ".gz"))
    return len(content if packed else gzip.compress(content, 6))


def test_every_number_has_a_caption() -> None:
    for path in SITE.glob("notebooks/*.html"):
        numbers = BeautifulSoup(path.read_text(), "html.parser").find_all(class_="caption-number")
        assert numbers, path.name
        assert not [tag.text for tag in numbers if tag.text.strip() == tag.parent.text.strip()], path.name


@pytest.mark.skipif(not AXE.is_file(), reason="axe comes with the build: run `make book`")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_read_every_page(scheme: str, page: Any, address: str) -> None:
    page.emulate_media(color_scheme=scheme)
    violations = []
    for name in PAGES:
        page.goto(address + name)
        page.evaluate(AXE.read_text())  # a script tag would be against the page's policy
        found = page.evaluate("axe.run({ resultTypes: ['violations'] }).then(result => result.violations)")
        violations += [
            f"{name}: {one['impact']} {one['id']}: {one['nodes'][0]['html'][:200]}" for one in found
        ]
    assert not violations, "\n".join(violations)


def test_on_a_phone_a_tables_first_column_stays(page: Any, address: str) -> None:
    page.set_viewport_size({"width": 375, "height": 800})
    for name in PAGES:
        page.goto(address + name)
        for box in page.query_selector_all(".table-scroll"):
            if box.evaluate("box => box.checkVisibility() && box.scrollWidth > box.clientWidth + 4"):
                box.evaluate("box => { box.scrollLeft = 1000; }")
                left = "box => box.querySelector('tbody th[scope=row]').getBoundingClientRect().left"
                assert abs(box.evaluate(left) - box.bounding_box()["x"]) <= 1, f"{name}: {box.inner_text()[:60]}"


def test_the_front_door_leads_to_the_opening_page(page: Any, address: str) -> None:
    page.goto(address)
    page.wait_for_url("**/book/index.html")
    assert page.locator("h1").first.inner_text().startswith("ABPN")
    assert page.locator("a[href*='claims.html#claim-']").count() > 0


def test_the_ledger_is_filtered_and_a_link_opens_its_claim(page: Any, address: str) -> None:
    claims = page.locator("details.claim:visible")
    page.goto(f"{address}book/claims.html#claim-s10")
    everything = claims.count()
    assert everything > 90
    assert page.locator("details.claim[open]").get_attribute("id") == "claim-s10"
    page.get_by_label("Words").fill("leaky gains")
    assert 0 < claims.count() < 10
    page.get_by_label("Words").fill("")
    page.get_by_label("Where").select_option("Table 4")
    page.get_by_role("checkbox", name="not testable here").check()
    assert {claim.get_attribute("data-section") for claim in claims.all()} == {"Table 4"}
    found = claims.count()
    assert page.locator("output").inner_text() == f"{found} of {everything} claims"
    page.reload()
    assert claims.count() == found, "the address remembers the filter"
    page.goto(f"{address}book/claims.html?section=Table+4#claim-s10")
    assert page.locator("#claim-s10").is_visible(), "a link to a claim goes before a filter"


def test_the_ledger_is_whole_without_a_script(chromium: Any, address: str) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}book/claims.html?verdict=partly")
    assert page.locator("details.claim:visible").count() > 90
    assert not page.locator(".ledger-tools").is_visible()
    page.locator("#claim-s10 summary").click()
    assert "bits" in page.locator("#claim-s10 dl").inner_text()
    context.close()


def test_this_cell_opens_the_code(page: Any, address: str) -> None:
    page.goto(f"{address}notebooks/03-table2-residual.html")
    line = page.locator("p.sources").first
    code = line.locator("xpath=ancestor::div[contains(@class, 'cell ')][1]").locator("details.above-input")
    line.get_by_role("link", name="this cell").click()
    assert code.locator("pre").is_visible()


def test_a_claim_a_term_and_a_citation_show_what_they_say(page: Any, address: str) -> None:
    page.goto(f"{address}notebooks/03-table2-residual.html")
    preview = page.locator("#preview")
    page.locator(".bd-article a[href*='#term-FP32']").first.hover()
    preview.wait_for(state="visible")
    assert " ".join(preview.inner_text().split()).startswith("FP32: Numbers of 32 bits")
    assert page.locator(".bd-article a[href*='#term-FP32']").first.get_attribute("aria-describedby") == "preview"
    page.mouse.move(0, 0)
    preview.wait_for(state="hidden")
    page.locator(".in-short a.claim-badge").first.focus()
    preview.wait_for(state="visible")
    assert "S8" in preview.inner_text()
    assert "Here: " in preview.inner_text()
    page.keyboard.press("Escape")
    preview.wait_for(state="hidden")
    page.goto(f"{address}book/index.html")
    page.locator("a[href*='bibliography.html#']").first.focus()
    preview.wait_for(state="visible")
    assert preview.locator("a[href^='https://doi.org/']").count() == 1


def test_a_page_runs_no_script_that_it_did_not_bring(page: Any, address: str) -> None:
    page.goto(f"{address}book/reading.html")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.foreign = 1\">')")
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), { text: 'window.foreign = 2' }))"
    )
    page.wait_for_timeout(300)
    assert page.evaluate("window.foreign") is None
