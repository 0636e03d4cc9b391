"""A Sphinx extension: figures and tables that notebooks make are numbered, and ``{numref}`` refers to them.

Their HTML comes from a cell's output, of which Sphinx knows nothing. The line that `tools.sources` puts below each
names its cell, and that name is the label: ``{numref}`03-c14` ``.
"""

from __future__ import annotations

import html
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

_LABEL = re.compile(r'<p class="sources" id="source-([\w-]+)"')
_CAPTION = re.compile(
    r"<caption[^>]*><span[^>]*>(?P<table>.*?)</span>|<figcaption>(?P<figure>.*?)</figcaption></figure>"
)


class NumberedFigure(nodes.General, nodes.Element):
    """The HTML of a figure, as its one child."""


class NumberedTable(nodes.General, nodes.Element):
    """The HTML of a table, as its one child."""


class _Number(SphinxTransform):
    """Put a node that Sphinx counts around each output that shows a table or figure."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        for raw in list(self.document.findall(nodes.raw)):
            if label := _LABEL.search(raw.astext()):
                kind = NumberedTable if "<table" in raw.astext() else NumberedFigure
                shown = kind("", ids=[label[1]], names=[label[1].lower()])
                raw.replace_self(shown)
                shown += raw
                self.document.note_explicit_target(shown, shown)


def _caption(node: nodes.Element) -> str:
    found = _CAPTION.search(node.astext())
    return html.unescape(found[found.lastgroup or 0]) if found else "without a caption"


def _write(self: Any, node: nodes.Element) -> None:
    kind = "table" if isinstance(node, NumberedTable) else "figure"
    label = node["ids"][0]
    number = ".".join(map(str, self.builder.fignumbers[kind][label]))
    self.body.append(f'<div id="{label}">{numbered(node.astext(), f"{kind.title()} {number}")}</div>')
    raise nodes.SkipNode


def _leave(self: Any, node: nodes.Element) -> None:
    """Nothing is left to write."""


def numbered(text: str, number: str) -> str:
    """The HTML of a figure or table with a number in front of its caption; a figure without one gets it as caption."""
    found = _CAPTION.search(text)
    shown = f'<span class="caption-number">{number}.</span>'
    if found:
        at = found.start(found.lastgroup or 0)
        return f"{text[:at]}{shown} {text[at:]}"
    before, end, after = text.rpartition("</figure>")
    return f"{before}<figcaption>{shown}</figcaption>{end}{after}"


def setup(app: Sphinx) -> dict[str, Any]:
    """What Sphinx calls."""
    app.add_transform(_Number)
    for kind, node in (("figure", NumberedFigure), ("table", NumberedTable)):
        app.add_enumerable_node(node, kind, _caption, html=(_write, _leave))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
