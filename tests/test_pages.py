"""The built site in a real browser: light, dark, and as wide as a phone.

Skipped where `make book` has not run, or no Chromium is installed.
"""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SITE = Path(__file__).parents[1] / "_build" / "html"
PAGES = sorted(str(path.relative_to(SITE)) for place in ("book", "notebooks") for path in (SITE / place).glob("*.html"))

pytestmark = pytest.mark.skipif(not PAGES, reason="the site is not built: run `make book`")


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The site below a sub-path, as GitHub Pages serves it."""
    handler = functools.partial(_Silent, directory=SITE.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/html/"
        server.shutdown()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 360), ("dark", 360)])
def test_every_page_fits_and_shows_one_version_of_each_figure(
    scheme: str, width: int, chromium: Any, address: str
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    outside: list[str] = []
    page.on("request", lambda request: outside.append(request.url) if not request.url.startswith(address) else None)
    crashes: list[str] = []
    page.on("pageerror", lambda error: crashes.append(str(error)))
    for name in PAGES:
        page.goto(address + name)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name} is {wide} pixels wider than the screen"
        shown = page.evaluate(
            "Array.from(document.querySelectorAll('figure.themed')).map(figure =>"
            " Array.from(figure.querySelectorAll('img.only-light, img.only-dark'))"
            "  .filter(image => getComputedStyle(image).display !== 'none').map(image => image.className))"
        )
        assert all(classes == [f"only-{scheme}"] for classes in shown), f"{name}: {shown}"
    assert not crashes
    assert [url for url in outside if not url.startswith("data:")] == []
    context.close()


def test_the_front_door_leads_to_the_opening_page(chromium: Any, address: str) -> None:
    page = chromium.new_page()
    page.goto(address)
    page.wait_for_url("**/book/index.html")
    assert page.locator("h1").first.inner_text().startswith("ABPN")
    assert page.locator("a[href*='claims.html#claim-s10']").count() > 0
    page.close()
