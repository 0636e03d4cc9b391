"""The ledger as a MyST page: counts first, then for each table or section a summary and every claim in full."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from typing import get_args

from abpn_lib import paper
from abpn_lib.claims.evidence import DATASETS
from abpn_lib.claims.ledger import Claim, anchor
from abpn_lib.claims.shapes import Judgement, Verdict

__all__ = ["page"]

_MARKS = {
    "measured": "■ measured here", "recorded": "● recorded", "estimated": "◇ estimated",
    "": "= computed from quoted values",
}


def page(entries: Sequence[tuple[Claim, Judgement]]) -> str:
    """The page, rendered from ``page.md.j2``. Each claim has a reference target, `anchor` of its id."""
    from jinja2 import Environment, StrictUndefined

    template = (importlib.resources.files("abpn_lib.claims") / "page.md.j2").read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"md": _escaped, "code": _code, "anchor": anchor}
    sections: dict[str, list[tuple[Claim, Judgement]]] = {name: [] for name in paper.SECTIONS}
    for entry, judgement in entries:
        sections[entry.section].append((entry, judgement))
    return environment.from_string(template).render(
        sections={name: rows for name, rows in sections.items() if rows}, titles=paper.SECTIONS,
        verdicts=get_args(Verdict), marks=_MARKS, datasets=DATASETS, quotes=_quotes, here=_here,
    )


def _quotes(entry: Claim) -> str:
    quotes = [paper.quoted(id) for id in entry.quoted]
    if quotes[0].value is None:
        return "the statement itself"
    if len(quotes) == 1:
        return _escaped(f"“{quotes[0].shown}”")
    return _escaped(", ".join(f"{quote.id.split('.')[-1]} “{quote.shown}”" for quote in quotes))


def _here(judgement: Judgement) -> str:
    if not judgement.measured:
        return "no record"
    kinds = sorted({str(record.kind) for record in judgement.records}) or [""]
    return _escaped(f"{' and '.join(_MARKS[kind] for kind in kinds)}: {judgement.measured}")


def _escaped(text: str, *, keep_code: bool = False) -> str:
    """Text with Markdown's own signs taken literally, on one line; with `keep_code` backquotes stay what they are."""
    for sign in "\\*_<>[]{}$|#~" + ("" if keep_code else "`"):
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _code(text: str) -> str:
    """Text as a code span that no backquote in it can end: a record may come from a stranger."""
    return f"`{' '.join(text.split()).replace('`', 'ˋ')}`"
