"""The opening page's generated part: the picture under a divider, the bar of all claims, and the findings.

Every number comes from the records that the ledger was judged by. A finding whose records are missing is left out.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from abpn_lib import book, claims, datasets, degradation, models, paper
from abpn_lib.book.tables import inline
from abpn_lib.claims import Claim, Judgement
from abpn_lib.results import Context, Record
from abpn_lib.tflite.upscaler import Upscaler
from abpn_lib.values import Value

__all__ = ["Finding", "bar", "findings", "page", "picture"]

# The window of an embedded image that the opening page shows: image, top, left, height, width, in HR pixels.
_ABPN = "abpn-long-int8-ptq"  # the paper's own network, and not one with more channels
_WINDOW = ("motorcycle", 204, 309, 168, 252)


@dataclass(frozen=True)
class Finding:
    """One sentence about one number, the claim that it bears on, a small picture, and the page that tells more."""

    number: Value
    sentence: str
    claim: str
    picture: str
    page: str


def page(judged: Sequence[tuple[Claim, Judgement]], measured: Sequence[Record]) -> str:
    """What `book/index.md` includes: HTML in a MyST block."""
    known = book.Page("index", Context.here("python -m tools.site ledger"), list(measured))
    by_id = {claim.id: (claim, judgement) for claim, judgement in judged}
    cards = "".join(_card(finding, by_id) for finding in findings(known))
    parts = f'{picture()}{bar(judged)}<ul class="findings">{cards}</ul>'
    return f"```{{raw}} html\n{parts}\n```\n"


def bar(judged: Sequence[tuple[Claim, Judgement]]) -> str:
    """All claims by verdict as one bar, each part a link into the ledger."""
    parts = []
    for verdict in get_args(claims.Verdict):
        count = sum(judgement.verdict == verdict for _, judgement in judged)
        if count:
            parts.append(
                f'<a class="verdict-{verdict.replace(" ", "-")}" style="flex-grow:{count}" '
                f'href="claims.html?verdict={verdict.replace(" ", "+")}#claims">'
                f"<b>{book.SIGNS[verdict]} {count}</b> <span>{verdict}</span></a>"
            )
    title = f"{len(judged)} claims of the paper, each judged by a stated rule"
    return (
        f'<section class="claims-bar" aria-label="Claims by verdict"><p>{title}</p>'
        f'<div>{"".join(parts)}</div></section>'
    )


def picture() -> str:
    """An embedded image under a divider: its repeated pixels, and what ABPN in INT8 makes of them."""
    name, top, left, height, width = _WINDOW
    hr = dict(datasets.images("embedded"))[name]
    lr = degradation.bicubic_down(hr, 3)
    sr = Upscaler(models.find(_ABPN)).upscale(lr)
    shown = sr[top : top + height, left : left + width]
    small = lr[top // 3 : (top + height) // 3, left // 3 : (left + width) // 3]
    size = f'width="{2 * width}" height="{2 * height}"'
    alt = "Part of a motorcycle, {}"
    return (
        '<figure class="divided" style="--at:50%">'
        f'<img {size} src="{_uri(shown)}" alt="{alt.format("enlarged three times by ABPN in INT8")}">'
        f'<img {size} src="{_uri(small)}" alt="{alt.format("a third as large, every pixel repeated nine times")}">'
        '<span data-side="left">Anchors: pixels, repeated</span><span data-side="right">ABPN, INT8</span>'
        "</figure>"
    )


def findings(known: book.Page) -> list[Finding]:
    """The findings for which `known` has records."""
    found = []
    for find in _FINDINGS:
        try:
            found.append(find(known))
        except (LookupError, AttributeError, ValueError):  # what a frame without such rows answers
            continue
    return found


def _quantisation(known: book.Page) -> Finding:
    scores = known.pivot("psnr", ["dataset", "network", "seed"], "form", dataset=datasets.BENCHMARKS,
                         network=paper.TABLE2, form=["fp32", "int8-ptq"])
    lost = book.mean(book.mean(scores["fp32"] - scores["int8-ptq"], over="dataset"), over="seed")
    return Finding(
        lost["abpn"],
        f"is what INT8 costs ABPN; the same chain without residual learning loses {inline(lost['baseline'])}.",
        "S13", _bars({name: lost[name] for name in paper.TABLE2}, "abpn"), "03-table2-residual",
    )


def _qat(known: book.Page) -> Finding:
    scores = known.pivot("psnr", "dataset", "form", dataset=datasets.BENCHMARKS, network="abpn", seed=0,
                         form=["int8-ptq-tensor", "int8-qat"])
    gain = scores["int8-qat"] - scores["int8-ptq-tensor"]
    return Finding(
        book.mean(gain, over="dataset"),
        f"is what quantisation-aware training adds to plain PTQ; in the paper it adds {_said('S15.gain')}.",
        "S15", _bars(gain.to_dict()), "04-qat",
    )


def _fsrcnn(known: book.Page) -> Finding:
    scores = known.pivot("psnr", "dataset", "network", dataset=datasets.BENCHMARKS, network=["abpn", "fsrcnn"],
                         form="int8-ptq", seed=0)
    lead = scores["abpn"] - scores["fsrcnn"]
    return Finding(
        book.mean(lead, over="dataset"),
        f"is ABPN's lead over FSRCNN, both in INT8; in the paper it is nearly {_said('S16.gain')}.",
        "S16", _bars(lead.to_dict()), "05-table3-snapdragon",
    )


def _order(known: book.Page) -> Finding:
    nodes = {f"node-{node}": node for node in paper.META_NODES}
    here = known.frame("latency", network=nodes, size="1920x1080").set_index("network").value.astype(float)
    said = paper.table("T1").ms.astype(float)
    orders = (ms.sort_values().index for ms in (said, here.rename(nodes).reindex(said.index)))
    places = [{node: place for place, node in enumerate(order)} for order in orders]
    agree = known.frame("rank-correlation", network="table1")
    elsewhere = [record.shown for record in agree.record if record.get("accelerator")]
    here, = (record.shown for record in agree.record if not record.get("accelerator"))
    sentence = "is the rank correlation of Table 1's nodes on the paper's NPU and on this CPU; 1 is the same order."
    if elsewhere:
        least, most = min(elsewhere, key=float), max(elsewhere, key=float)
        sentence = sentence.replace("; 1 is the same order.", f", on other NPUs {inline(least)} to {inline(most)}.")
    return Finding(here, sentence, "S1", _slopes(*places), "02-table1-latency")


def _graph(known: book.Page) -> Finding:
    own = _ABPN
    network, _, form = own.partition("-int8")
    ratios = known.frame("latency-ratio", network=network).set_index(["over", "form"]).value
    forms = {"long way": f"int8{form}-long-way", "shipped": f"int8{form}", "int8 i/o": f"int8{form}-int8-images"}
    return Finding(
        ratios[f"{own}-long-way", forms["shipped"]],
        "of the time of the network as one would first write it: the shipped graph, with the same bits.",
        "S18", _bars({title: ratios[f"{network}-fp32", name] for title, name in forms.items()}, "shipped"),
        "10-deployment",
    )


def _clip(known: book.Page) -> Finding:
    scores = known.frame("psnr", network="abpn", reading=["raw", "scaled", "saturating"]).set_index("reading").value
    clipped = scores["saturating"]
    return Finding(
        scores["raw"],
        f"is left without the clip, where the output's bytes are taken for pixels; with it {inline(clipped)}.",
        "S12", _bars(scores.to_dict(), "saturating"), "08-clip-node",
    )


_FINDINGS: tuple[Callable[[book.Page], Finding], ...] = (_quantisation, _fsrcnn, _order, _qat, _graph, _clip)


def _said(id: str) -> str:
    return inline(paper.value(id))


def _card(finding: Finding, judged: Mapping[str, tuple[Claim, Judgement]]) -> str:
    badge = book.badges([judged[finding.claim]], "claims.html").html
    return (
        f'<li><a class="finding" href="../notebooks/{finding.page}.html"><strong>{inline(finding.number)}</strong> '
        f"{finding.sentence}</a>{finding.picture}{badge}</li>"
    )


def _bars(values: Mapping[str, Value], ours: str = "") -> str:
    """Bars with their names, 11 pixels of text each; that of `ours` stands out."""
    numbers = {name: float(value) for name, value in values.items()}
    least, most = min(0.0, *numbers.values()), max(0.0, *numbers.values())
    scale = 74 / ((most - least) or 1)
    rows = "".join(
        f'<text x="60" y="{15 * row + 11}" text-anchor="end">{html.escape(name)}</text>'
        f'<rect class="{"ours" if name == ours else ""}" x="{66 + scale * (min(number, 0) - least):.1f}" '
        f'y="{15 * row + 2}" width="{max(abs(number) * scale, 1):.1f}" height="11"/>'
        for row, (name, number) in enumerate(numbers.items())
    )
    return _svg(15 * len(numbers) + 2, "; ".join(f"{name} {value}" for name, value in values.items()), rows)


def _slopes(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """Two orders of the same things, joined by lines."""
    lines = "".join(f'<path d="M40 {5 + 6 * before[name]}L100 {5 + 6 * after[name]}"/>' for name in before)
    heads = '<text x="34" y="40" text-anchor="end">NPU</text><text x="106" y="40">CPU</text>'
    told = "; ".join(f"{name} from place {before[name] + 1} to {after[name] + 1}" for name in before)
    return _svg(78, f"The nodes' places from fast to slow: {told}", heads + lines)


def _svg(height: int, label: str, content: str) -> str:
    return (
        f'<svg viewBox="0 0 144 {height}" width="144" height="{height}" role="img" aria-label="{html.escape(label)}">'
        f"{content}</svg>"
    )


def _uri(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, quality=100)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
