"""Pictures and plots for the pages: each drawn once for a light and once for a dark page from one call.

Every figure carries alternative text and every numeric axis its quantity and unit; leaving one out
is an error. The HTML stands alone: in Colab and Jupyter the light drawing shows, on the book's pages
``custom.css`` shows the one that suits the reader's theme.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Html", "bars", "image_grid", "themed"]

# CSS counts 96 pixels to the inch; two device pixels for each keep lines sharp on phones.
_CSS_DPI = 96
_SHARPNESS = 2

# Each colour reaches a contrast of at least 3:1 against its page.
_LIGHT = {
    "ink": "#1f2328", "grid": "#d0d7de", "cycle": ["#0b62a4", "#b35900", "#1a7f37", "#8250df", "#57606a", "#a40e26"],
}
_DARK = {
    "ink": "#e6edf3", "grid": "#444c56", "cycle": ["#6cb6ff", "#f0a35e", "#6bc46d", "#c297ff", "#adbac7", "#ff938a"],
}


@dataclass(frozen=True)
class Html:
    """A piece of HTML that a notebook shows as it is; `text` is shown where HTML cannot be."""

    html: str
    text: str = ""

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text or "(shown as HTML)"


def themed(
    draw: Callable[[Figure], None], *, alt: str, width: float = 7.0, height: float = 4.0, caption: str = ""
) -> Html:
    """Draw a figure for a light and for a dark page.

    `draw` gets an empty figure of `width` x `height` inches and is called once per theme; it should
    leave colours to matplotlib's defaults or name them "C0" to "C5", which suit both themes.

    Raises
    ------
    ValueError
        If `alt` is empty, or a numeric axis has no label (write quantity and unit there).
    """
    if not alt.strip():
        raise ValueError("a figure needs alternative text: say in `alt` what it shows")
    light, dark = (_png(draw, theme, width, height) for theme in (_LIGHT, _DARK))
    size = f'width="{round(width * _CSS_DPI)}" height="{round(height * _CSS_DPI)}"'
    shared = f'alt="{html.escape(alt)}" {size}'
    # Outside the book nothing swaps the two, and the light one may stand on a dark notebook: hence its white ground.
    return Html(
        f'<figure class="themed" style="margin:1em 0">'
        f'<img class="only-light" style="background:#fff;max-width:100%;height:auto" {shared} src="{light}">'
        f'<img class="only-dark" style="display:none;max-width:100%;height:auto" {shared} src="{dark}">'
        f"{_caption(caption)}</figure>",
        alt,
    )


def bars(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    *,
    quantity: str,
    unit: str,
    alt: str,
    intervals: Mapping[str, Sequence[tuple[float, float] | None]] | None = None,
    log: bool = False,
    digits: int = 1,
    width: float = 7.0,
    caption: str = "",
) -> Html:
    """Horizontal bars, one group per label and one bar per series, so that ours stands beside the paper's.

    `series` maps a legend text ("paper, Synaptics Dolphin NPU"; "measured here") to one value per
    label, None where there is none. `intervals` maps a legend text to (low, high) per label, drawn as
    a whisker. `quantity` and `unit` label the axis; `digits` are shown after the point of each value.

    Raises
    ------
    ValueError
        If quantity, unit or alt is empty, or a series is not as long as the labels.
    """
    if not quantity.strip() or not unit.strip():
        raise ValueError("bars need a quantity and a unit for their axis, such as 'latency' and 'ms'")
    for name, values in [*series.items(), *(intervals or {}).items()]:
        if len(values) != len(labels):
            raise ValueError(f"{name!r} has {len(values)} values for {len(labels)} labels")
    thickness = 0.8 / max(len(series), 1)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        rows = np.arange(len(labels))
        for number, (name, values) in enumerate(series.items()):
            heights = rows + (number - (len(series) - 1) / 2) * thickness
            shown = [float("nan") if value is None else value for value in values]
            # The first series is hatched too, so that colour is not the only difference.
            axes.barh(
                heights, shown, thickness * 0.9, label=name, color=f"C{number}", hatch="" if number else "//",
                edgecolor=matplotlib.rcParams["axes.edgecolor"], linewidth=0.5,
            )
            whiskers = (intervals or {}).get(name, [None] * len(labels))
            for height, value, interval in zip(heights, values, whiskers, strict=True):
                if interval:
                    axes.plot(interval, (height, height), color=matplotlib.rcParams["text.color"], linewidth=1.2)
                if value is not None:
                    # Behind the bar and its whisker, so that neither strikes the number through.
                    end = max(value, *(interval or (value,)))
                    place: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "size": 8}
                    axes.annotate(f"{value:.{digits}f}", (end, height), **place)
        axes.set_yticks(rows, labels)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlabel(f"{quantity} [{unit}]")
        if log:
            axes.set_xscale("log")
        axes.margins(x=0.12)
        axes.grid(axis="x", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper left", ncols=2, frameon=False)

    height = 1.1 + len(labels) * max(0.24 * len(series), 0.3)
    return themed(draw, alt=alt, width=width, height=height, caption=caption)


def image_grid(
    images: Sequence[tuple[str, NDArray[np.uint8]]], *, alt: str, columns: int = 3, zoom: int = 1, caption: str = ""
) -> Html:
    """Pictures side by side, pixel for pixel, each with its caption below it.

    `images` are pairs of caption and (H, W), (H, W, 3) or (H, W, 4) uint8 pixels. `alt` says what they all
    show; each picture's alternative text is `alt` with its own caption. `zoom` shows one pixel as zoom x zoom
    without smoothing.

    Raises
    ------
    ValueError
        If `alt` is empty, there is no image, or an array is not uint8.
    """
    if not alt.strip() or not images:
        raise ValueError("an image grid needs images, and alternative text that says what they show")
    cells = []
    for label, pixels in images:
        if pixels.dtype != np.uint8:
            raise ValueError(f"{label!r} is {pixels.dtype}; a grid shows uint8 pixels")
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
        height, width = pixels.shape[:2]
        described = html.escape(f"{alt}: {label}")
        smoothing = ";image-rendering:pixelated" if zoom > 1 else ""
        cells.append(
            f'<figure style="margin:0;min-width:0">'
            f'<img class="pixels" alt="{described}" width="{width * zoom}" height="{height * zoom}" '
            f'style="max-width:100%;height:auto{smoothing}" src="{_data_uri(buffer.getvalue())}">'
            f'<figcaption style="font-size:.9em">{html.escape(label)}</figcaption></figure>'
        )
    # As many columns as asked for while each keeps a legible width; fewer on a phone.
    widest = max(pixels.shape[1] for _, pixels in images) * zoom
    least = f"max(min({min(widest, 140)}px, 100%), calc((100% - {columns - 1}em) / {columns}))"
    return Html(
        f'<figure style="margin:1em 0"><div class="image-grid" style="display:grid;gap:1em;'
        f'grid-template-columns:repeat(auto-fill, minmax({least}, 1fr))">{"".join(cells)}</div>'
        f"{_caption(caption)}</figure>",
        alt,
    )


def _png(draw: Callable[[Figure], None], theme: Mapping[str, Any], width: float, height: float) -> str:
    ink = theme["ink"]
    settings: dict[str, Any] = {
        "text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": ink, "xtick.color": ink, "ytick.color": ink,
        "grid.color": theme["grid"], "axes.facecolor": "none", "figure.facecolor": "none", "savefig.facecolor": "none",
        "legend.facecolor": "none", "axes.prop_cycle": cycler(color=theme["cycle"]), "font.size": 10,
        "lines.color": ink, "patch.edgecolor": ink, "hatch.color": ink, "hatch.linewidth": 0.4,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width, height), dpi=_CSS_DPI * _SHARPNESS, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        figure.canvas.draw()
        _demand_labels(figure)
        buffer = io.BytesIO()
        # No date and no version in the file: the same data gives the same bytes.
        figure.savefig(buffer, format="png", transparent=True, metadata={"Software": None})
    return _data_uri(buffer.getvalue())


def _demand_labels(figure: Figure) -> None:
    def numeric(text: str) -> bool:
        try:
            float(text.replace("\N{MINUS SIGN}", "-"))
        except ValueError:
            return text.startswith("$")  # a power of ten, set as mathematics
        return True

    def unlabelled(axis: Axis) -> bool:
        shown = any(tick.get_visible() and numeric(tick.get_text()) for tick in axis.get_ticklabels())
        return shown and not axis.get_label_text().strip()

    for axes in figure.axes:
        if axes.axison and (unlabelled(axes.xaxis) or unlabelled(axes.yaxis)):
            raise ValueError("a numeric axis has no label: write its quantity and unit, such as 'latency [ms]'")


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _caption(caption: str) -> str:
    return f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
