"""The paper's two diagrams, drawn anew: Figure 1 (where a residual is added) and Figure 2 (the network).

Each function draws into a matplotlib figure, in the colours of the style in force, so that
`abpn_lib.book.themed` can draw it once for light and once for dark pages.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_IMAGE_SPACE = ("LR", "conv", "convs", "conv", "shuffle", "+", "HR")
_STRATEGIES = (
    # title, boxes of the chain, (index of the box that is added to, where the branch starts, what it does)
    ("(a) FSRL: features are added", ("LR", "conv", "convs", "+", "conv", "shuffle", "HR"), (3, 1, "")),
    ("(b) nearest: the resized image is added", _IMAGE_SPACE, (5, 0, "nearest x3")),
    ("(c) bilinear: the resized image is added", _IMAGE_SPACE, (5, 0, "bilinear x3")),
    (
        "(d) ABRL: the anchors are added before the shuffle", ("LR", "conv", "convs", "conv", "+", "shuffle", "HR"),
        (4, 0, "every pixel 9 times"),
    ),
)


def residual_strategies(figure: Figure) -> None:
    """Figure 1: the four residual strategies of Table 2, one below the other."""
    for axes, (title, boxes, (sink, source, label)) in zip(figure.subplots(4, 1), _STRATEGIES, strict=True):
        _blank(axes, len(boxes), title)
        _chain(axes, boxes)
        _branch(axes, source, sink, label)


def architecture(figure: Figure, convolutions: Sequence[tuple[str, int, int]]) -> None:
    """Figure 2: the whole network, from (name, channels in, channels out) of every 3x3 convolution of a built one.

    They come in their order; each but the last is followed by a ReLU.
    """
    last = len(convolutions) - 1
    steps = [
        f"{name}\n3×3\n{before}→{after}" + ("\nReLU" if i < last else "")
        for i, (name, before, after) in enumerate(convolutions)
    ]
    boxes = ["LR", *steps, "+", "shuffle", "clip", "HR"]
    axes = figure.subplots()
    _blank(axes, len(boxes), "")
    _chain(axes, boxes)
    _branch(axes, 0, len(steps) + 1, f"anchor: every pixel {convolutions[-1][2] // 3} times")


def _blank(axes: Axes, width: int, title: str) -> None:
    axes.set(xlim=(-0.6, width - 0.4), ylim=(-0.5, 1.25))
    axes.set_title(title, loc="left", fontsize=9)
    axes.axis("off")


def _chain(axes: Axes, labels: Sequence[str]) -> None:
    line = rcParams["axes.edgecolor"]
    for x, label in enumerate(labels):
        style = "circle,pad=0.25" if label == "+" else "round,pad=0.35"
        axes.text(
            x, 0, label, ha="center", va="center", fontsize=7, zorder=3, color=rcParams["text.color"],
            bbox={"boxstyle": style, "edgecolor": line, "facecolor": "none"},
        )
        if x:
            axes.annotate("", (x - 0.40, 0), (x - 0.68, 0), arrowprops={"arrowstyle": "->", "color": line}, zorder=2)


def _branch(axes: Axes, source: int, sink: int, label: str, top: float = 0.85) -> None:
    line = rcParams["axes.edgecolor"]
    axes.plot([source, source, sink], [0.25, top, top], color=line, linewidth=1, zorder=1)
    axes.annotate("", (sink, 0.2), (sink, top), arrowprops={"arrowstyle": "->", "color": line}, zorder=1)
    middle = (source + sink) / 2
    axes.text(middle, top + 0.06, label, ha="center", va="bottom", fontsize=8, color=rcParams["text.color"])
