"""The whole book as one PDF, from its built pages: pandoc reads their HTML, Typst sets it. Both come as wheels.

What only works on a screen (forms, code that makes a figure, the dark half of each figure) is left out.
"""

from __future__ import annotations

import base64
import html
import re
import tempfile
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from bs4 import BeautifulSoup, Tag

from abpn_lib.files import write_atomically
from tools import BuildError

__all__ = ["chapters", "write"]

_SCREEN_ONLY = (
    "script, style, form, noscript, button, a.headerlink, img.only-dark, details.above-input, .cell_input, p.sources, "
    "svg.icon, .findings img, div.abpn-try, span[style*='position:absolute'], figure.divided > span, p.alone"
)
_SVG = re.compile(r"<svg\b(?P<head>[^>]*)>(?P<body>.*?)</svg>", re.DOTALL)
_SUBTITLE = "An executable companion of “Anchor-based Plain Net for Mobile Image Super-Resolution”"


def chapters(toc: Path) -> list[str]:
    """The pages of the book in their order, without ending, from ``_toc.yml``."""
    read = yaml.safe_load(toc.read_text())
    parts = read.get("parts", [read])
    return [read["root"], *(chapter["file"] for part in parts for chapter in part["chapters"])]


def write(pages: Path, names: Sequence[str], target: Path, *, title: str, author: str, site: str = "") -> None:
    """Write the pages called `names` below `pages` as one PDF.

    Links within the book lead to their place in it. Those to the site's other files lead to `site`, its public address,
    and are plain text where that is not known. The same pages give the same bytes.

    Raises
    ------
    BuildError
        If pandoc or Typst refuse the book.
    """
    import pypandoc
    import typst

    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        book = _Book(pages, names, scratch, site)
        articles = [book.page(one) for one in names]
        _places(articles)
        text = "\n".join(article.decode_contents() for article in articles)
        said = {"title": title, "author": author, "subtitle": _SUBTITLE}
        try:
            body = pypandoc.convert_text(text, "typst", format="html", extra_args=["--wrap=none"])
            # pandoc leaves an equals sign at the beginning of a cell, which Typst takes for a heading's.
            body = re.sub(r"\[( *)(=+\s)", r"[\1\\\2", body)
            (scratch / "book.typ").write_text((Path(__file__).parent / "book.typ").read_text() + body)
            made = typst.compile(scratch / "book.typ", ignore_system_fonts=True, sys_inputs=said)
        except (RuntimeError, typst.TypstError) as error:
            raise BuildError(f"the PDF cannot be made ({error})") from error
        write_atomically(target, made)


class _Book:
    """The pages on their way into one document, in which every place has one name."""

    def __init__(self, pages: Path, names: Sequence[str], scratch: Path, site: str) -> None:
        self._pages, self._names, self._scratch, self._site = pages, names, scratch, site
        self._images = 0

    def page(self, name: str) -> Tag:
        text = (self._pages / f"{name}.html").read_text()
        # Before the parser, which would lower the case of their attributes.
        text = _SVG.sub(self._drawing, text)
        article = BeautifulSoup(text, "html.parser").select_one("article.bd-article")
        if article is None:
            raise BuildError(f"{name}.html has no article to print")
        for tag in article.select(_SCREEN_ONLY):
            tag.decompose()
        _unfold(article)
        for tag in article.find_all(id=True):
            tag["id"] = _place(name, str(tag["id"]))
        for tag in article.find_all("a", href=True):
            self._link(name, tag)
        for image in article.find_all("img"):
            self._image(name, image)
        for tag in article.find_all(["section", "div"]):
            # A place is that of what one sees there first; Typst begins a page only outside of all boxes.
            first = tag.find(["h1", "h2", "h3", "h4", "table", "figure"])
            if isinstance(first, Tag) and tag.get("id"):
                first["id"] = tag["id"] if first.name != "h1" else _place(name)
            tag.unwrap()
        return article

    def _drawing(self, found: re.Match[str]) -> str:
        if 'class="icon' in found["head"]:
            return ""
        drawn = found[0].replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1).replace("currentColor", "#000")
        drawn = re.sub(r"var\([^,()]*,\s*([^()]*)\)", r"\1", drawn)
        label = re.search(r'aria-label="([^"]*)"', found["head"])
        width = re.search(r'\bwidth="(\d+)"', found["head"])
        path = self._kept(drawn.encode(), "svg")
        return f'<img src="{path}" alt="{label[1] if label else ""}" width="{width[1] if width else 300}">'

    def _kept(self, content: bytes, kind: str) -> str:
        self._images += 1
        path = self._scratch / f"{self._images}.{kind}"
        path.write_bytes(content)
        return path.name

    def _image(self, page: str, image: Tag) -> None:
        address = str(image["src"])
        if address.startswith("data:"):
            kind, _, packed = address.removeprefix("data:image/").partition(";base64,")
            image["src"] = self._kept(base64.b64decode(packed), kind)
        elif not (self._scratch / address).is_file():
            path = (self._pages / page).parent / urllib.parse.unquote(address)
            image["src"] = self._kept(path.read_bytes(), path.suffix[1:])
        outer = image.find_parents("figure")[-1:]
        beside = len(outer[0].find_all("img")) if outer else 1
        # CSS pixels as points of a column 476 points wide; what stands side by side shares it.
        width = float(str(image.get("width") or 300)) * 0.7
        image["width"] = f"{min(width, 470 if beside < 2 else 230):.0f}pt"
        del image["height"], image["style"]

    def _link(self, page: str, tag: Tag) -> None:
        parts = urllib.parse.urlsplit(str(tag["href"]))
        if parts.scheme or parts.netloc:
            return
        other = urllib.parse.urljoin(page, parts.path) if parts.path else f"{page}.html"
        if other.removesuffix(".html") in self._names and other.endswith(".html"):
            tag["href"] = f"#{_place(other.removesuffix('.html'), urllib.parse.unquote(parts.fragment))}"
        elif self._site:
            tag["href"] = f"{self._site}/{other}"
        else:
            tag.unwrap()


def _place(page: str, fragment: str = "") -> str:
    return re.sub(r"[^\w-]", "-", f"{page}--{fragment}" if fragment else page)


def _places(articles: Sequence[Tag]) -> None:
    """Names only where something refers to them, on the words that stand there; no links to what was left out."""
    links = [link for article in articles for link in article.find_all("a", href=re.compile("^#"))]
    wanted = {str(link["href"])[1:] for link in links}
    there: set[str] = set()
    for tag in [tag for article in articles for tag in article.find_all(id=True)]:
        place = str(tag["id"])
        words = tag.find(string=re.compile(r"\S"))
        if place in wanted - there and words:
            there.add(place)
            if tag.name not in ("h1", "h2", "h3", "h4", "span"):
                del tag["id"]
                words.wrap(BeautifulSoup("", "html.parser").new_tag("span", id=place))
        else:
            del tag["id"]
    for link in links:
        if str(link["href"])[1:] not in there:
            link.unwrap()


def _unfold(article: Tag) -> None:
    """Folds open; each run of claims as a table, and what was set apart by style alone set apart by tags."""
    for claim in article.select("details.claim"):
        cells = "".join(
            f"<td>{_text(claim, one)}</td>" for one in ("says", "paper", "here", "badge")
        )
        row = f'<tr><td id="{claim["id"]}"><b>{_text(claim, "id")}</b></td>{cells}</tr>'
        before = claim.find_previous_sibling()
        if before is None or before.name != "table":
            head = "".join(f"<th>{one}</th>" for one in ("", "The paper says", "Its value", "Here", "Verdict"))
            widths = "".join(f'<col style="width:{one}%">' for one in (14, 36, 14, 22, 14))
            frame = f"<table><colgroup>{widths}</colgroup><thead><tr>{head}</tr></thead><tbody></tbody></table>"
            claim.insert_before(BeautifulSoup(frame, "html.parser"))
        table = claim.find_previous_sibling("table")
        table.tbody.append(BeautifulSoup(row, "html.parser"))  # type: ignore[union-attr]
        claim.decompose()
    for line in article.select(".verdict dl > div"):
        line.name = "p"
        for part in line.find_all(["dt", "dd"]):
            part.name = "strong" if part.name == "dt" else "span"
    for listed in article.select(".verdict dl"):
        listed.unwrap()
    for fold in article.find_all("details"):
        summary = fold.find("summary")
        if isinstance(summary, Tag):
            summary.name = "h3" if "more" in (fold.get("class") or ()) else "p"
        fold.name = "div"
    for part in article.select(".claims-bar a + a"):
        part.insert_before(" · ")
    for best in article.select("td.best"):
        best.name, inner = "td", "".join(map(str, best.contents))
        best.clear()
        best.append(BeautifulSoup(f"<strong>{inner}</strong>", "html.parser"))


def _text(claim: Tag, part: str) -> str:
    found = claim.select_one(f"summary .claim-{part}")
    return html.escape(found.get_text().strip()) if found else ""
