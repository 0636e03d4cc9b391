"""Verdicts on the paper's claims, and where numbers come from, as a page shows them."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Sequence

from abpn_lib import paper
from abpn_lib.book.tables import Html, table
from abpn_lib.claims import Claim, Judgement, claim, judge
from abpn_lib.results import Record
from abpn_lib.values import MARKS

# More claims than this stand in a table, a row each.
_MOST_BOXES = 6


def verdicts(ids: Sequence[str], records: Iterable[Record]) -> Html:
    """Some claims, judged by these records alone; between markers that the book's build finds.

    The markers are the comments ``<!--verdicts S8 S9-->`` and ``<!--/verdicts-->``: the build puts the ledger's
    judgement in place of what stands between them, so that no page contradicts the ledger.
    """
    known = list(records)
    boxes = verdict_boxes([(claim(id), judge(id, known)) for id in ids])
    alone = (
        "Judged by this run alone: these verdicts rest on what this page measured and on the shipped records. "
        "The book's ledger judges by all pages' records."
    )
    return Html(
        f'<!--verdicts {" ".join(ids)}--><p class="alone">{alone}</p>{boxes.html}<!--/verdicts-->',
        f"{alone}\n{boxes.text}",
    )


def verdict_boxes(entries: Sequence[tuple[Claim, Judgement]]) -> Html:
    """Judged claims: each with its rule, what was measured, and the verdict; many of them in a table, a row each.

    Box or row, each has ``data-claim`` (the claim's id) and ``data-verdict`` (the verdict).
    """
    if len(entries) > _MOST_BOXES:
        return _rows(entries)
    boxes = [_box(entry, judgement) for entry, judgement in entries]
    return Html("".join(box.html for box in boxes), "\n".join(box.text for box in boxes))


def provenance(records: Iterable[Record]) -> Html:
    """One line for each group of records that share a machine and a commit: where, with what, by which command."""
    groups: Counter[tuple[str, str, str]] = Counter()
    for record in records:
        context = record.context
        versions = ", ".join(f"{name} {number}" for name, number in context.versions.items())
        commit = f", commit {context.commit}" if context.commit else ""
        where = f"on {context.device} with {versions}{commit}, {context.date}"
        groups[record.kind, where, context.command] += 1
    lines = [
        f"<li>{_mark(kind)}: {count} value{'s' if count > 1 else ''} {html.escape(where)}, "
        f"by <code>{html.escape(command)}</code></li>"
        for (kind, where, command), count in groups.items()
    ]
    return Html(f'<ul class="provenance">{"".join(lines) or "<li>No records.</li>"}</ul>', f"{len(lines)} sources")


def _mark(kind: str) -> str:
    mark, _, meaning = MARKS[kind]  # type: ignore[index]
    return f'<span class="kind-{kind}">{mark}{meaning}</span>'


def _quotes(entry: Claim) -> str:
    quotes = [paper.quoted(id) for id in entry.quoted]
    shown = [html.escape(f"“{quote.shown}”") for quote in quotes if quote.value is not None]
    return " ".join(f'<span class="value kind-quoted">{text}</span>' for text in shown)


def _box(entry: Claim, judgement: Judgement) -> Html:
    kinds = " ".join(_mark(kind) for kind in sorted({record.kind for record in judgement.records}))
    lines = {
        "The paper": f"{html.escape(entry.statement)} {_quotes(entry)} ({html.escape(entry.where)})",
        "Rule": html.escape(entry.rule), "Here": f"{html.escape(judgement.measured)} {kinds}".strip(),
        "Why": html.escape(judgement.why),
    }
    device = f", on {judgement.device}" if judgement.device and judgement.verdict != "not testable here" else ""
    listed = "".join(
        f'<div><dt style="display:inline;font-weight:bold">{title}:</dt> '
        f'<dd style="display:inline;margin:0">{text}</dd></div>'
        for title, text in lines.items() if text
    )
    return Html(
        f'<section class="verdict verdict-{judgement.verdict.replace(" ", "-")}" aria-label="Claim {entry.id}" '
        f'data-claim="{entry.id}" data-verdict="{judgement.verdict}" '
        f'style="border-left:4px solid;padding:.5em 1em;margin:1em 0">'
        f'<p style="margin:0"><strong>{entry.id}: {judgement.verdict}</strong>{device}</p>'
        f'<dl style="margin:0">{listed}</dl></section>',
        f"{entry.id}: {judgement.verdict}. {judgement.measured}. {judgement.why}",
    )


def _rows(entries: Sequence[tuple[Claim, Judgement]]) -> Html:
    rows = [
        (entry.id, entry.statement, Html(
            f'<span data-claim="{entry.id}" data-verdict="{judgement.verdict}">{judgement.verdict}</span>',
            judgement.verdict,
        ), judgement.measured or judgement.why)
        for entry, judgement in entries
    ]
    caption = f"The verdicts on {entries[0][0].id} to {entries[-1][0].id}; the ledger gives each rule"
    return table(rows, ["Claim", "What it says", "Verdict", "Here"], caption=caption)
