"""The line below each table and figure: its records, the command that makes them, its cell, and the copy for Colab."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from bs4 import BeautifulSoup
from nbformat import NotebookNode

from abpn_lib import results
from abpn_lib.results import Record

_SOURCES = re.compile(r' data-sources="([^"]*)"')
_SHOWN = "div.table-scroll, figure"


def with_sources(
    notebook: NotebookNode, page: str, measured: Sequence[Record], folder: Path, colab: str
) -> NotebookNode:
    """The notebook with that line in each output that shows a table or figure.

    `measured` are the records of this page's run. A value's title and a plot's ``data-sources`` name the records that
    they show, among those or the shipped ones; where none is named, as by a picture, all of the page are given. They
    go to ``folder/records/PAGE/CELL.json``. `colab` is the address of the page's copy, from the page.
    """
    known = {record.id: record for record in (*results.recorded(), *measured)}
    lines: Counter[str] = Counter()
    for cell in notebook.cells:
        for shown in (output.get("data", {}) for output in cell.get("outputs", ())):
            text = "".join(shown.get("text/html", ""))
            if not BeautifulSoup(text, "html.parser").select_one(_SHOWN):
                continue
            found, of = _named(text, known), ""
            if not found:
                found, of = list(measured), " of this page"
            lines[cell.id] += 1
            name = cell.id + (f"-{lines[cell.id]}" if lines[cell.id] > 1 else "")
            path = folder / "records" / page / f"{name}.json"
            if found:
                path.parent.mkdir(parents=True, exist_ok=True)
                results.save(path, found)
            line = _line(found, of, f"../records/{page}/{path.name}", name, colab)
            shown["text/html"] = _SOURCES.sub("", text) + line
    return notebook


def _named(text: str, known: Mapping[str, Record]) -> list[Record]:
    sources = html.unescape(" ".join(re.findall(r'\btitle="([^"]*)"', text) + _SOURCES.findall(text)))
    return [record for id, record in known.items() if f"{id};" in sources]


def _line(records: Sequence[Record], of: str, address: str, cell: str, colab: str) -> str:
    commands = {record.context.command for record in records}
    # Many runs of one command are told by its first two words.
    starts = {command: " ".join(command.split()[:2]) for command in sorted(commands)}
    counts = Counter(starts.values())
    made = ", ".join(dict.fromkeys(
        f"<code>{html.escape(start)} …</code> ({counts[start]} runs)" if counts[start] > 1
        else f"<code>{html.escape(command)}</code>" for command, start in starts.items()
    ))
    link = f'<a href="{address}">{len(records)} record{"" if len(records) == 1 else "s"}{of} (JSON)</a> by {made} · '
    return (
        f'<p class="sources" id="source-{cell}">Source: {link if records else ""}'
        f'<a href="#source-{cell}" class="to-cell">this cell</a> · <a href="{colab}">Colab copy</a></p>'
    )
