"""The picture that a link to a page shows where it is shared: the page's title beside its first figure."""

from __future__ import annotations

import base64
import html
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abpn_lib.files import write_atomically

__all__ = ["card_of", "write"]

_LAYOUT = """
#set page(width: 1200pt, height: 630pt, margin: 60pt, fill: white)
#set text(font: "Libertinus Serif", size: 54pt)
#let card(title, picture) = page({
  let shown = if picture != none { (image(picture, width: 100%, height: 100%, fit: "contain"),) } else { () }
  let columns = (1fr,) * (1 + shown.len())
  grid(columns: columns, gutter: 40pt, rows: 430pt, align: horizon, text(weight: "bold", title), ..shown)
  place(bottom, text(size: 30pt, fill: luma(90), sys.inputs.book))
})
"""
_PICTURE = re.compile(
    r'<img\b[^>]*\bsrc="(?:(?P<file>[^":]*_images/[^"]*)|data:image/(?P<kind>\w+);base64,(?P<packed>[^"]*))"'
    r'|(?P<drawn><svg (?!class="icon)[^>]*>.*?</svg>)', re.DOTALL,
)


def card_of(page: str) -> str:
    """Where the card of a page (such as ``book/index``) lies, below the site."""
    return f"_images/card-{page.replace('/', '-')}.png"


def write(pages: Path, names: Sequence[str], book: str) -> None:
    """Write a card of 1200 x 630 pixels for each of the pages called `names`; `book` is the title of the whole."""
    import typst

    with tempfile.TemporaryDirectory() as scratch:
        calls = []
        for number, name in enumerate(names):
            text = (pages / f"{name}.html").read_text()
            title = re.search(r"<title>(.*?) &#8212;", text) or re.search(r"<title>(.*?)</title>", text)
            said = json.dumps(html.unescape(title[1]), ensure_ascii=False) if title else '""'
            picture = _picture(text, (pages / name).parent, Path(scratch) / str(number))
            calls.append(f"#card({said}, {json.dumps(picture) if picture else 'none'})\n")
        source = Path(scratch) / "cards.typ"
        source.write_text(_LAYOUT + "".join(calls))
        made: Any = typst.compile(source, format="png", ppi=72, ignore_system_fonts=True, sys_inputs={"book": book})
        for name, card in zip(names, made if isinstance(made, list) else [made], strict=True):
            (pages / card_of(name)).parent.mkdir(exist_ok=True)
            write_atomically(pages / card_of(name), card)


def _picture(text: str, folder: Path, target: Path) -> str:
    """The name of a copy of a page's first figure, "" where it has none."""
    article = text.partition('<article class="bd-article"')[2]
    found = _PICTURE.search(article)
    if not found:
        return ""
    if found["file"]:
        path = folder / found["file"]
        content, kind = path.read_bytes(), path.suffix[1:]
    elif found["packed"]:
        content, kind = base64.b64decode(found["packed"]), found["kind"]
    else:
        drawn = re.sub(r"var\([^,()]*,\s*([^()]*)\)", r"\1", found["drawn"]).replace("currentColor", "#000")
        content, kind = drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).encode(), "svg"
    target = target.with_suffix(f".{kind}")
    target.write_bytes(content)
    return target.name
