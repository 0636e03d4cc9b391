"""Verdicts on the paper's claims, and where numbers come from, as a page shows them."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Sequence

from abpn_lib import paper
from abpn_lib.book.tables import Html, note
from abpn_lib.claims import Claim, Judgement, anchor, claim, judge
from abpn_lib.claims.shapes import SIGNS
from abpn_lib.results import Record
from abpn_lib.values import MARKS, Value


def in_short(
    text: str, *cells: Value | str, claims: Sequence[str], records: Iterable[Record], **named: Value | str
) -> Html:
    """A page's answer in a box: a few sentences with values in them (see `note`), and claims as badges.

    The badges stand between the comments ``<!--badges S8 S9-->`` and ``<!--/badges-->``, as in `verdicts`.
    """
    said, known = note(text, *cells, **named), list(records)
    marks = badges([(claim(id), judge(id, known)) for id in claims])
    return Html(
        f'<div class="in-short" style="border-left:4px solid;padding:.5em 1em"><strong>In short</strong>{said.html}'
        f'<p><!--badges {" ".join(claims)}-->{marks.html}<!--/badges--></p></div>',
        f"In short: {said.text}\n{marks.text}",
    )


def badges(entries: Sequence[tuple[Claim, Judgement]], ledger: str = "") -> Html:
    """Judged claims as small labels of sign, id and verdict; each a link where `ledger` is that page's address."""
    shown = [
        f'<a class="claim-badge {_slug(judgement.verdict)}" title="{html.escape(entry.statement)}" '
        f'data-claim="{entry.id}" data-verdict="{judgement.verdict}"'
        + (f' href="{ledger}#{anchor(entry.id)}"' if ledger else "") + f">{_words(entry, judgement)}</a>"
        for entry, judgement in entries
    ]
    return Html(" ".join(shown), "; ".join(_words(*entry) for entry in entries))


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
    """Judged claims, a line each, which opens for the rule, what was measured, and why.

    Each has ``data-claim`` (the claim's id) and ``data-verdict`` (the verdict).
    """
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
    return Html(
        '<details class="more provenance"><summary>Where this page\'s values come from</summary>'
        f'<ul>{"".join(lines) or "<li>No records.</li>"}</ul></details>', f"{len(lines)} sources",
    )


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
        "Judged on": judgement.device if judgement.verdict != "not testable here" else "",
        "Why": html.escape(judgement.why),
    }
    listed = "".join(
        f'<div><dt style="display:inline;font-weight:bold">{title}:</dt> '
        f'<dd style="display:inline;margin:0">{text}</dd></div>'
        for title, text in lines.items() if text
    )
    return Html(
        f'<details class="verdict {_slug(judgement.verdict)}" data-claim="{entry.id}" '
        f'data-verdict="{judgement.verdict}" style="border-left:4px solid;padding:.2em 1em;margin:.4em 0">'
        f'<summary><strong class="claim-badge">{_words(entry, judgement)}</strong> {html.escape(entry.statement)}'
        f'</summary><dl style="margin:.5em 0">{listed}</dl></details>',
        f"{_words(entry, judgement)}. {judgement.measured}. {judgement.why}",
    )


def _words(entry: Claim, judgement: Judgement) -> str:
    return f"{SIGNS[judgement.verdict]} {entry.id} {judgement.verdict}"


def _slug(verdict: str) -> str:
    return f"verdict-{verdict.replace(' ', '-')}"
