"""What the notebooks share: values that show their kind, tables, verdicts, and the records of this run.

Every number on a page is *measured* (by this run), *recorded* (by a full run, shipped with the
library) or *quoted* (from the paper). `Value` shows which, in text as well as in style, so that no
two kinds look alike, on a page or in a plain notebook.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from abpn_lib import datasets, paper, results
from abpn_lib.book.page.figures import Html
from abpn_lib.claims.ledger import ledger as claims
from abpn_lib.results import Record

__all__ = [
    "Html", "Value", "data_note", "keep", "legend", "load_all", "missing", "provenance", "quoted", "table", "value",
    "verdict",
]

Kind = Literal["measured", "recorded", "quoted"]

_MARKS = {"measured": ("■", "measured in this run"), "recorded": ("●", "recorded full run")}

# Read aloud and by tests, not seen: the style stands inline since a plain notebook has no stylesheet of ours.
_UNSEEN = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap"


@dataclass(frozen=True)
class Value:
    """One number for the reader, with its unit, its kind and where it comes from.

    `number` None is a value that is not there; `text` then says why ("no record"). `source` is the
    record's id and command, or the place in the paper. `digits` are shown after the point.
    """

    number: float | None
    unit: str
    kind: Kind
    source: str
    digits: int = 2
    text: str = ""

    def __str__(self) -> str:
        if self.number is None:
            return self.text or "no value"
        shown = f"{self.number:,.{self.digits}f}" + (f" {self.unit}" if self.unit else "")
        return f"“{shown}”" if self.kind == "quoted" else f"{_MARKS[self.kind][0]} {shown}"

    def _repr_html_(self) -> str:
        shown = html.escape(str(self))
        if self.number is not None and self.kind != "quoted":
            mark, meaning = _MARKS[self.kind]
            spoken = f'<span aria-hidden="true">{mark}</span><span style="{_UNSEEN}">{meaning}:</span>'
            shown = shown.replace(mark, spoken, 1)
        return (
            f'<span class="value kind-{self.kind}" title="{html.escape(self.source)}" style="white-space:nowrap">'
            f"{shown}</span>"
        )


def value(record: Record, *, digits: int = 2) -> Value:
    """The value of a record, measured or recorded as the record says."""
    return Value(record.value, record.unit, record.kind, f"{record.id}; {record.command}", digits)


def quoted(id: str, *, digits: int | None = None) -> Value:
    """A value of the paper by its id in `abpn_lib.paper` (such as "T2.abpn.int8"), with the digits it prints there."""
    entry = paper.quoted(id)
    if digits is None:
        digits = len(entry.text.partition(".")[2]) if entry.value is not None else 0
    return Value(entry.value, entry.unit, "quoted", f"the paper, {entry.where}", digits, entry.text)


def missing(why: str) -> Value:
    """The place of a value that is not there; `why` is shown in its stead."""
    return Value(None, "", "recorded", why, text=why)


def table(rows: Iterable[Sequence[Value | Html | str]], header: Sequence[str], caption: str, *, id: str = "") -> Html:
    """A table whose first column names the rows. Numbers come as `Value`, so that each shows its kind.

    Raises
    ------
    TypeError
        If a cell is a bare number.
    ValueError
        If a row is not as long as the header, or the caption is empty.
    """
    listed = [list(row) for row in rows]
    if not caption.strip():
        raise ValueError("a table needs a caption")
    if any(len(row) != len(header) for row in listed):
        raise ValueError(f"every row of {caption!r} needs {len(header)} cells")
    head = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in header)
    body = "".join(
        f'<tr><th scope="row" style="text-align:left">{_cell(row[0])}</th>'
        + "".join(f'<td style="text-align:right">{_cell(cell)}</td>' for cell in row[1:]) + "</tr>"
        for row in listed
    )
    name = id or "table-" + re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")[:60]
    plain = "\n".join(["\t".join(header), *("\t".join(str(cell) for cell in row) for row in listed)])
    return Html(
        # Focusable, so that a keyboard can scroll it on a narrow screen.
        f'<div class="table-scroll" style="overflow-x:auto" role="region" tabindex="0" '
        f'aria-labelledby="{name}-caption">'
        f'<table id="{name}"><caption id="{name}-caption" style="text-align:left">{html.escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>",
        f"{caption}\n{plain}",
    )


def legend() -> Html:
    """How the three kinds of number look: to be shown once on each page, before its first number."""
    rows = [
        '<span class="kind-quoted">“30.09 dB”</span> quoted from the paper',
        '<span class="kind-recorded">● recorded</span>: a full run whose records ship with the library',
        '<span class="kind-measured">■ measured</span>: by the run that made this page',
    ]
    return Html(f'<p class="legend">{" · ".join(rows)}</p>', "“ ” quoted, ● recorded, ■ measured")


def keep(name: str, records: Iterable[Record]) -> list[Record]:
    """Write the records of this run to ``$ABPN_RECORDS_OUT/NAME.json`` (``_build/records``) and return them."""
    kept = list(records)
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    results.save(folder / f"{name}.json", kept)
    return kept


def load_all() -> list[Record]:
    """All records: those of this run first, then those shipped with the library."""
    measured = [record for path in sorted(_folder().glob("*.json")) for record in results.load(path, "measured")]
    return measured + results.recorded()


def verdict(claim_id: str, records: Iterable[Record]) -> Html:
    """A claim of the paper with its rule, what was measured, and the verdict.

    Raises
    ------
    KeyError
        If no claim has that id.
    """
    claim = next((claim for claim in claims.CLAIMS if claim.id == claim_id), None)
    if claim is None:
        raise KeyError(f"no claim has the id {claim_id!r}")
    judgement = claim.judge(list(records))
    quotes = [quoted(id) for id in claim.quoted]
    numbers = " ".join(quote._repr_html_() for quote in quotes if quote.number is not None)
    kinds = sorted({record.kind for record in judgement.records})
    ours = " ".join(f'<span class="kind-{kind}">{_MARKS[kind][0]} {_MARKS[kind][1]}</span>' for kind in kinds)
    lines = {
        "The paper": f"{html.escape(claim.statement)} {numbers} ({html.escape(claim.where)})",
        "Rule": html.escape(claim.rule),
        "Here": f"{html.escape(judgement.measured)} {ours}".strip(),
        "Why": html.escape(judgement.why),
    }
    listed = "".join(
        f'<div><dt style="display:inline;font-weight:bold">{title}:</dt> '
        f'<dd style="display:inline;margin:0">{text}</dd></div>'
        for title, text in lines.items() if text
    )
    return Html(
        f'<section class="verdict verdict-{judgement.verdict.replace(" ", "-")}" aria-label="Claim {claim.id}" '
        f'style="border-left:4px solid;padding:.5em 1em;margin:1em 0">'
        f'<p style="margin:0"><strong>{claim.id}: {judgement.verdict}</strong></p>'
        f'<dl style="margin:0">{listed}</dl></section>',
        f"{claim.id}: {judgement.verdict}. {judgement.measured}. {judgement.why}",
    )


def provenance(records: Iterable[Record]) -> Html:
    """One line for each group of records that share a machine and a commit: where, with what, by which command."""
    groups: dict[tuple[str, ...], int] = {}
    for record in records:
        versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
        key = (record.kind, record.device, versions, record.commit, record.date, record.command)
        groups[key] = groups.get(key, 0) + 1
    lines = []
    for (kind, device, versions, commit, date, command), count in groups.items():
        mark, meaning = _MARKS[kind]
        where = f"on {device} with {versions}" + (f", commit {commit}" if commit else "") + f", {date}"
        lines.append(
            f'<li><span class="kind-{kind}">{mark} {meaning}</span>: {count} value{"s" if count > 1 else ""} '
            f"{html.escape(where)}, by <code>{html.escape(command)}</code></li>"
        )
    return Html(f'<ul class="provenance">{"".join(lines) or "<li>No records.</li>"}</ul>', f"{len(lines)} sources")


def data_note() -> Html:
    """Which data sets this run can read, and how to get the others."""
    names = ("embedded", "set5", "set14", "bsd100", "urban100")
    here = [name for name in names if datasets.available(name)]
    absent = [name for name in names if name not in here]
    note = f"Images at hand in this run: {', '.join(here)}."
    if absent:
        note += (
            f" Not at hand: {', '.join(absent)}; their values below are recorded ones. Fetch a set with"
            f" `abpn data fetch {absent[0]}` and run this page again to measure them."
        )
    marked_up = re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(note))
    return Html(f'<p class="data-note">{marked_up}</p>', note)


def _cell(cell: Value | Html | str) -> str:
    if isinstance(cell, (Value, Html)):
        return cell._repr_html_()
    if isinstance(cell, str):
        return html.escape(cell)
    raise TypeError(f"{cell!r} is a bare number: show it as a Value, which carries its kind")


def _folder() -> Path:
    return Path(os.environ.get("ABPN_RECORDS_OUT") or "_build/records")
