"""The paper's two diagrams, drawn anew: Figure 1 (where a residual is added) and Figure 2 (the network).

They are SVG, at a size at which every letter is read on a phone, in the colours of the text around them. Each flows
from top to bottom; what is added runs beside it.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from abpn_lib.book.tables import Html

_IMAGE_SPACE = ("LR image", "conv", "convs", "conv", "shuffle", "+", "HR image")
_STRATEGIES = (
    # title, boxes of the chain, (index of the box that is added to, where the branch starts), what is added
    ("(a) FSRL", ("LR image", "conv", "convs", "+", "conv", "shuffle", "HR image"), (3, 1), "features"),
    ("(b) nearest", _IMAGE_SPACE, (5, 0), "nearest ×3"),
    ("(c) bilinear", _IMAGE_SPACE, (5, 0), "bilinear ×3"),
    ("(d) ABRL", ("LR image", "conv", "convs", "conv", "+", "shuffle", "HR image"), (4, 0), "pixels ×9"),
)
# Pixels: from one box to the next, and the height of a box.
_STEP, _BOX = 44, 28
_ACCENT = "var(--accent, #0b62a4)"


def residual_strategies() -> Html:
    """Figure 1: the four residual strategies of Table 2, side by side; two by two on a phone."""
    columns = [_strategy(*strategy) for strategy in _STRATEGIES]
    shown = "".join(
        f'<div style="flex:0 0 152px">{_svg(152, _STEP * 7 + 24, told, drawn)}</div>' for drawn, told in columns
    )
    return Html(
        f'<figure style="margin:1em 0"><div style="display:flex;flex-wrap:wrap;gap:1em 1.2em">{shown}</div><figcaption>'
        "Figure 1, drawn anew: where each strategy adds its residual. Below the shuffle all is three times as large."
        "</figcaption></figure>",
        "; ".join(told for _, told in columns),
    )


def architecture(convolutions: Sequence[tuple[str, int, int]], scale: int = 3) -> Html:
    """Figure 2: the whole network, from (name, channels in, channels out) of every 3x3 convolution of a built one.

    They come in their order; each but the last is followed by a ReLU.
    """
    last = len(convolutions) - 1
    steps = [
        (f"{name}: conv 3×3" + (", ReLU" if i < last else ""), f"{before} → {after}", 186)
        for i, (name, before, after) in enumerate(convolutions)
    ]
    channels = convolutions[-1][2]
    # label, channels in and out, width of the box
    rows = [
        ("LR image", "3", 136), *steps, ("+", str(channels), 0),
        (f"shuffle ×{scale}", f"{channels} → 3", 136), ("clip to 0…255", "3", 136), ("HR image", "3", 136),
    ]
    sink, middle = len(steps) + 1, 150
    parts = [_branch(middle, 0, sink, 34, "", out=68)]
    parts.append(_text(28, sink * _STEP / 2, f"anchors: every pixel ×{scale**2}", _ACCENT, turn=True))
    for row, (label, numbers, width) in enumerate(rows):
        parts += [_arrow(middle, row) if row else "", _node(middle, row, label, width)]
        parts.append(_text(258, _middle(row) + 5, numbers, anchor="start"))
    listed = "; ".join(f'{label}, channels {numbers}' for label, numbers, _ in rows)
    told = f"The network from top to bottom: {listed}. "
    told += f"A branch from the LR image to the addition repeats every pixel {scale**2} times."
    drawn = _svg(330, _STEP * len(rows), told, "".join(parts))
    return Html(
        f'<figure style="margin:1em 0">{drawn}<figcaption>Figure 2, drawn anew from the network as it is built: each '
        "step with its channels in and out</figcaption></figure>", told,
    )


def _strategy(title: str, boxes: Sequence[str], branch: tuple[int, int], added: str) -> tuple[str, str]:
    """One column of Figure 1: its drawing, and what it shows in words."""
    sink, source = branch
    parts = [_text(0, 15, title, anchor="start", weight=700), '<g transform="translate(0 24)">']
    parts += [_branch(98, source, sink, 22, added)]
    for row, label in enumerate(boxes):
        parts += [_arrow(98, row) if row else "", _node(98, row, label, 84)]
    told = f"{title}: {', '.join(boxes)}; the addition takes {added} from {boxes[source]}"
    return "".join([*parts, "</g>"]), told


def _middle(row: int) -> float:
    return row * _STEP + _BOX / 2 + 2


def _node(x: float, row: int, label: str, width: float) -> str:
    y = _middle(row)
    if label == "+":
        circle = f'<circle cx="{x}" cy="{y}" r="13" fill="none" stroke="{_ACCENT}" stroke-width="2"/>'
        return circle + _text(x, y + 6, "+", _ACCENT, weight=700, size=18)
    box = f'<rect x="{x - width / 2}" y="{y - _BOX / 2}" width="{width}" height="{_BOX}" rx="5"'
    fill = "currentColor" if label.endswith("image") else "none"
    return f'{box} fill="{fill}" fill-opacity=".12" stroke="currentColor"/>{_text(x, y + 5, label)}'


def _arrow(x: float, row: int) -> str:
    """From the box above into this one."""
    y = _middle(row) - _BOX / 2
    return f'<path d="M{x} {y - _STEP + _BOX}V{y - 1}m-4 -6l4 6l4 -6" fill="none" stroke="currentColor"/>'


def _branch(x: float, source: int, sink: int, left: float, label: str, out: float = 42) -> str:
    """What is added: out of the box `source` to the left, down, and into the addition."""
    top, bottom = _middle(source), _middle(sink)
    line = (
        f'<path d="M{x - out} {top}H{left}V{bottom}H{x - 14}m-6 -4l6 4l-6 4" fill="none" stroke="{_ACCENT}" '
        'stroke-width="2.5"/>'
    )
    return line + (_text(left - 6, (top + bottom) / 2, label, _ACCENT, turn=True) if label else "")


def _text(
    x: float, y: float, text: str, colour: str = "currentColor", *, anchor: str = "middle", weight: int = 400,
    size: int = 14, turn: bool = False,
) -> str:
    turned = f' transform="rotate(-90 {x} {y})"' if turn else ""
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}" font-size="{size}" font-weight="{weight}"'
        f"{turned}>{html.escape(text)}</text>"
    )


def _svg(width: int, height: int, told: str, content: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" style="max-width:100%;height:auto;'
        f'font-family:sans-serif" role="img" aria-label="{html.escape(told)}">{content}</svg>'
    )
