"""The ledger as a MyST page: one line a claim, which opens for its rule and records."""

from __future__ import annotations

import importlib.resources
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import get_args

from abpn_lib import paper
from abpn_lib.claims.evidence import DATASETS
from abpn_lib.claims.ledger import Claim, anchor
from abpn_lib.claims.shapes import SIGNS, Judgement, Verdict
from abpn_lib.results import Record

_MARKS = {
    "measured": "■ measured here", "recorded": "● recorded", "estimated": "◇ estimated",
    "": "= computed from quoted values",
}


def page(entries: Sequence[tuple[Claim, Judgement]]) -> str:
    """The page, rendered from ``page.md.j2``. Each claim has a reference target, `anchor` of its id."""
    from jinja2 import Environment, StrictUndefined

    template = (importlib.resources.files("abpn_lib.claims") / "page.md.j2").read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=True)
    # A record may come from a stranger: on one line, and escaped, no text of it ends the block that it stands in.
    environment.filters |= {"line": lambda text: " ".join(text.split()), "anchor": anchor}
    found = [entry.section for entry, _ in entries]
    sections = {name: [pair for pair in entries if pair[0].section == name] for name in paper.SECTIONS if name in found}
    return environment.from_string(template).render(
        sections=sections, titles=paper.SECTIONS, verdicts=get_args(Verdict), signs=SIGNS, marks=_MARKS,
        counts=Counter(judgement.verdict for _, judgement in entries), count=len(entries), datasets=DATASETS,
        devices=sorted({judgement.device or "no device" for _, judgement in entries}),
        quotes=_quotes, here=_here, sources=_sources,
    )


def _quotes(entry: Claim) -> str:
    quotes = [quote for quote in map(paper.quoted, entry.quoted) if quote.value is not None]
    if len(quotes) == 1:
        return f"“{quotes[0].shown}”"
    return ", ".join(f"{quote.id.split('.')[-1]} “{quote.shown}”" for quote in quotes)


def _here(judgement: Judgement) -> str:
    kinds = sorted({str(record.kind) for record in judgement.records}) or [""]
    return f"{' '.join(_MARKS[kind].split()[0] for kind in kinds)} {judgement.measured}" if judgement.measured else ""


def _sources(judgement: Judgement) -> Iterator[tuple[tuple[str, str, str], list[str]]]:
    """The ids of the records of each kind, command and device."""
    def key(record: Record) -> tuple[str, str, str]:
        return str(record.kind), record.context.command, record.context.device

    for group, records in itertools.groupby(sorted(judgement.records, key=key), key):
        yield group, [record.id for record in records]
