"""How an executed notebook becomes a page: its answer first, the ledger's verdicts, and folded what few readers need.

A cell tagged ``opening`` moves behind the title, so that a page opens with its answer, its figure and its table, which
the notebook can only show once it has computed them. Folded are the section *What we run* and every part below a
heading of the third level; a folded part still is in the page, without a script as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import nbformat
from nbformat import NotebookNode

from abpn_lib import book, claims

__all__ = ["FOLDED", "page_of"]

FOLDED = {"## What we run": "How it was done, and with which settings"}
"""Whole sections that are folded, and what stands on the fold; the heading stays."""

# A page's verdicts and badges stand between these; the build puts the ledger's in place of the notebook's own.
_JUDGED = re.compile(r"<!--(verdicts|badges) ([\w. -]*?)-->.*?<!--/\1-->", re.DOTALL)
_LEDGER = "../book/claims.html"
_TABLE = re.compile(r"\bbook\.(table|compare)\(")

Judged = Mapping[str, tuple[claims.Claim, claims.Judgement]]


def page_of(notebook: NotebookNode, judged: Judged) -> NotebookNode:
    """The page of an executed notebook, with the ledger's judgements in place of its own."""
    opening = [cell for cell in notebook.cells if "opening" in cell.metadata.get("tags", ())]
    # The answer, a figure, a table: wherever the notebook has enough at hand for each.
    opening.sort(key=lambda cell: ("in_short(" not in cell.source, bool(_TABLE.search(cell.source))))
    rest = [cell for cell in notebook.cells if cell not in opening]
    notebook.cells = list(_folded(part for cell in (*rest[:1], *opening, *rest[1:]) for part in _parts(cell)))
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            shown = output.get("data", {})
            if "text/html" in shown:
                shown["text/html"] = _JUDGED.sub(lambda found: _of_ledger(found, judged), "".join(shown["text/html"]))
    return notebook


def _of_ledger(found: re.Match[str], judged: Judged) -> str:
    entries = [judged[id] for id in found[2].split()]
    return (book.badges(entries, _LEDGER) if found[1] == "badges" else book.verdict_boxes(entries)).html


def _folded(cells: Iterable[NotebookNode]) -> Iterator[NotebookNode]:
    """The cells, and around those of a folded part the ends of a ``details``: from one heading to the next."""
    inside = False
    for number, cell in enumerate(cells):
        heading, _, text = cell.source.partition("\n") if cell.cell_type == "markdown" else ("", "", "")
        if heading.startswith("#"):
            if inside:
                yield _markdown(f"end-{number}", "</details>")
            title = heading[4:] if heading.startswith("### ") else FOLDED.get(heading, "")
            inside = bool(title)
            if heading in FOLDED:
                yield _markdown(f"heading-{number}", heading)
            if inside:
                yield _markdown(f"fold-{number}", f'<details class="more"><summary>{title}</summary>')
                cell.source = text.strip()
        yield cell
    if inside:
        yield _markdown("end", "</details>")


def _parts(cell: NotebookNode) -> list[NotebookNode]:
    """The cell; one of Markdown cut before each of its headings."""
    if cell.cell_type != "markdown":
        return [cell]
    first, *others = re.split(r"\n+(?=#{2,3} )", cell.source)
    cell.source = first
    return [cell, *(_markdown(f"{cell.id}-{number}", source) for number, source in enumerate(others))]


def _markdown(id: str, source: str) -> NotebookNode:
    return nbformat.v4.new_markdown_cell(source, id=id)
