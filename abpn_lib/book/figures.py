"""Pictures and plots for the pages: each drawn for a light and a dark page, for a desk and a phone, from one call.

Every figure carries alternative text, which `bars` and `lines` make from their data, and every numeric axis its
quantity and unit; leaving one out is an error. The HTML stands alone: in Colab and Jupyter the light drawing shows,
on the book's pages ``custom.css`` shows the one that suits the reader's theme.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, LogFormatter, ScalarFormatter
from numpy.typing import NDArray
from PIL import Image

from abpn_lib.book.tables import Html
from abpn_lib.values import Value, is_missing

if TYPE_CHECKING:
    import pandas as pd

# CSS counts 96 pixels to the inch; two device pixels for each keep lines sharp on phones.
_CSS_DPI = 96
_SHARPNESS = 2
# Inches: a phone of 360 pixels shows that much without making letters smaller, and nothing wide has less than this.
_PHONE, _WIDE = 3.5, 5.0

_STYLES = Path(__file__).parent


def themed(
    draw: Callable[[Figure], None], *, alt: str, width: float = 7.0, height: float = 4.0, caption: str = "",
    values: Iterable[Value | None] = (),
) -> Html:
    """Draw a figure for a light and for a dark page.

    `draw` gets an empty figure of `width` x `height` inches, and again one as narrow as a phone (see `is_narrow`), once
    per theme; it should leave colours to matplotlib's defaults or name them "C0" to "C5", which suit both themes. The
    sources of the `values` that it shows stand in ``data-sources``, of which the book makes the line below the figure.
    """
    if not alt.strip():
        raise ValueError("a figure needs alternative text: say in `alt` what it shows")
    # Outside the book nothing swaps the two, and the light one may stand on a dark notebook: hence its white ground.
    grounds = {"light": "background:#fff", "dark": "display:none"}
    shown = "".join(
        f'<picture><source media="(max-width:600px)" srcset="{_png(draw, theme, min(width, _PHONE), height)}>'
        f'<img class="only-{theme}" style="{ground};max-width:100%;height:auto" alt="{html.escape(alt)}" '
        f'src="{_png(draw, theme, width, height)}></picture>' for theme, ground in grounds.items()
    )
    sources = html.escape("; ".join(dict.fromkeys(value.source for value in values if value)))
    return Html(
        f'<figure class="themed" data-sources="{sources}" style="margin:1em 0">{shown}{_caption(caption)}</figure>', alt
    )


def is_narrow(figure: Figure) -> bool:
    """Whether a figure is the one for phones: long names wrap there, and legends stand in one column."""
    return bool(figure.get_figwidth() < _WIDE)


def label_points(
    axes: Any, points: Mapping[str, tuple[float, float]], colours: Mapping[str, str] | None = None
) -> None:
    """Name points on the right of the axes, each at its height as far as its neighbours leave room, by a thin line.

    Call it when everything is drawn and the scales are set. `colours` are those of the names, if they have any.
    """
    axes.autoscale_view()
    place = (axes.transData + axes.transAxes.inverted()).transform
    names = sorted(points, key=lambda name: place(points[name])[1])
    step, heights = 0.2 / axes.figure.get_figheight(), [float(place(points[name])[1]) for name in names]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + step)
    for i in range(1, len(heights) + 1):  # back from the top, where that pushed them out
        heights[-i] = min(heights[-i], 1 - step * (i - 1))
    for name, height in zip(names, heights, strict=True):
        axes.annotate(
            name, points[name], (1.03, height), textcoords="axes fraction", va="center", size=8,
            color=(colours or {}).get(name),
            arrowprops={"arrowstyle": "-", "color": "C4", "linewidth": 0.5, "relpos": (0, 0.5)},
        )


def bars(
    rows: Mapping[str, str] | Sequence[str], series: Mapping[str, Any] | pd.DataFrame, *, quantity: str,
    alt: str = "", log: bool = False, digits: int | None = None, caption: str = "",
) -> Html:
    """Horizontal bars, one group per row and one bar per series, so that ours stands beside the paper's.

    `rows` maps ids to names (or is a sequence of names that serve as ids). `series` maps a legend ("paper, Synaptics
    Dolphin NPU"; "measured here") to values by those ids: a pandas series or a mapping of `Value`; what is not there
    has no bar. The unit is the values' own, and their intervals are drawn as whiskers. The alternative text lists
    every bar; `alt` adds to it.
    """
    names = dict(rows) if isinstance(rows, Mapping) else {row: row for row in rows}
    found = {legend: [_value(values.get(id), digits) for id in names] for legend, values in series.items()}
    unit = _unit(quantity, found.values())
    thickness = 0.8 / max(len(found), 1)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        places = np.arange(len(names))
        for number, (legend, values) in enumerate(found.items()):
            heights = places + (number - (len(found) - 1) / 2) * thickness
            # The first series is hatched too, so that colour is not the only difference.
            axes.barh(
                heights, [value.number if value else math.nan for value in values], thickness * 0.9, label=legend,
                color=f"C{number}", hatch="" if number else "//", edgecolor=matplotlib.rcParams["axes.edgecolor"],
                linewidth=0.5,
            )
            for height, value in zip(heights, values, strict=True):
                if not value:
                    continue
                if value.interval:
                    axes.plot(value.interval, (height, height), color=matplotlib.rcParams["text.color"], linewidth=1.2)
                # Behind the bar and its whisker, so that neither strikes the number through.
                end = max([value.number, *(value.interval or []), *([] if log else [0.0])])
                place: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "size": 8}
                axes.annotate(_number(value), (end, height), **place)
        narrow = is_narrow(figure)
        axes.set_yticks(places, [textwrap.fill(name, 16) if narrow else name for name in names.values()])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(f"{quantity} [{unit}]")
        if log:
            axes.set_xscale("log")
        axes.margins(x=0.24 if narrow else 0.12)
        axes.grid(axis="x", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper left", ncols=1 if narrow else 2, frameon=False)

    described = "; ".join(
        f"{name} " + " / ".join(_number(value) if value else "none" for value in values)
        for name, *values in zip(names.values(), *found.values(), strict=True)
    )
    text = f"Bars of {quantity} [{unit}], {' / '.join(found)}: {described}. {alt}".strip()
    height = 1.1 + len(names) * max(0.24 * len(found), 0.3)
    shown = itertools.chain.from_iterable(found.values())
    return themed(draw, alt=text, height=height, caption=caption, values=shown)


def lines(
    series: Mapping[str, Any] | pd.DataFrame, *, x: str, quantity: str, alt: str = "", from_zero: bool = False,
    digits: int | None = None, height: float = 3.4, caption: str = "",
) -> Html:
    """One line per series: `series` maps a legend to values by their place on the horizontal axis (its index).

    `x` labels that axis, with its unit where it has one. The unit of the other is the values' own, and intervals are
    drawn as whiskers. With `from_zero` it starts at 0. The alternative text lists short lines point by point, and of
    long ones begin and end; `alt` adds to it.
    """
    if not x.strip():
        raise ValueError("lines need a name for their horizontal axis, with its unit if it has one")
    found = {
        legend: {float(at): value for at, cell in values.items() if (value := _value(cell, digits))}
        for legend, values in series.items()
    }
    found = {legend: dict(sorted(points.items())) for legend, points in found.items() if points}
    unit = _unit(quantity, (points.values() for points in found.values()))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel=x, ylabel=f"{quantity} [{unit}]")
        for number, (legend, points) in enumerate(found.items()):
            style = ("o" if len(points) <= _FEW else "") + ("-", "--", "-.", ":")[number // 6 % 4]
            heights = [value.number for value in points.values()]
            axes.plot(list(points), heights, style, color=f"C{number}", label=legend)
            for at, value in points.items():
                if value.interval:
                    axes.vlines(at, *value.interval, color=f"C{number}", linewidth=1.2)
        if from_zero:
            axes.set_ylim(bottom=0)
        axes.grid(linewidth=0.5)
        if len(found) > 1 and is_narrow(figure):
            figure.legend(loc="outside upper left", frameon=False)
        elif len(found) > 1:
            last = {legend: (at := max(points), points[at].number) for legend, points in found.items()}
            label_points(axes, last, {legend: f"C{number}" for number, legend in enumerate(found)})

    short = sum(map(len, found.values())) <= 2 * _FEW
    described = "; ".join(f"{legend} {_course(points, short)}" for legend, points in found.items())
    return themed(draw, alt=f"Lines of {quantity} [{unit}] against {x}: {described}. {alt}".strip(), height=height,
                  caption=caption, values=(value for points in found.values() for value in points.values()))


def image_grid(
    images: Sequence[tuple[str, NDArray[np.uint8]]], *, columns: int = 3, zoom: int = 1, caption: str = "",
    alt: str = "", divided: bool = False,
) -> Html:
    """Pictures side by side, pixel for pixel, each with its caption below it.

    `images` are pairs of caption and (H, W), (H, W, 3) or (H, W, 4) uint8 pixels. What they all show
    says `alt`, or else `caption`; each picture's alternative text is that with its own caption. `zoom` shows one pixel
    as zoom x zoom without smoothing. `divided` ones show one place each: the book puts two of them, of the reader's
    choice, under a divider.
    """
    told = alt.strip() or caption.strip()
    if not told or not images:
        raise ValueError("an image grid needs images, and alternative text that says what they show")
    cells = []
    for label, pixels in images:
        if pixels.dtype != np.uint8:
            raise ValueError(f"{label!r} is {pixels.dtype}; a grid shows uint8 pixels")
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
        height, width = pixels.shape[:2]
        described = html.escape(f"{told}: {label}")
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
        f'<figure{" class=compared" * divided} style="margin:1em 0"><div class="image-grid" style="display:grid;'
        f'gap:1em;grid-template-columns:repeat(auto-fill, minmax({least}, 1fr))">{"".join(cells)}</div>'
        f"{_caption(caption)}</figure>",
        told,
    )


def error_maps(
    picture: tuple[str, NDArray[np.uint8]], maps: Mapping[str, NDArray[np.float64]], *, quantity: str, unit: str,
    caption: str = "",
) -> Html:
    """A picture, and beside it errors at its pixels, all on one scale, which starts at 0.

    `picture` is a name and (H, W, 3) uint8 pixels, `maps` names to (H, W) errors: at most four, for two rows at a desk.
    """
    most = max(float(errors.max()) for errors in maps.values())

    def draw(figure: Figure) -> None:
        if narrow := is_narrow(figure):
            figure.set_figheight(5)
        cells = list(figure.subplots(*((3, 2) if narrow else (2, 3))).flat)
        for axes in cells:
            axes.axis("off")
        cells[0].imshow(picture[1], interpolation="nearest")
        cells[0].set_title(picture[0], size=9)
        for axes, (name, errors) in zip(cells[1:-1], maps.items(), strict=False):
            drawn = axes.imshow(errors, vmin=0, vmax=most, cmap="cividis", interpolation="nearest")
            axes.set_title(f"{textwrap.fill(name, 18) if narrow else name}\nmean {errors.mean():.2f}", size=9)
        scale = cells[-1].inset_axes((0.05, 0.5, 0.9, 0.1))
        figure.colorbar(drawn, cax=scale, orientation="horizontal", label=textwrap.fill(f"{quantity} [{unit}]", 20))

    told = "; ".join(f"{name} {errors.mean():.2f}, at most {errors.max():.0f}" for name, errors in maps.items())
    alt = f"{picture[0]}, and maps of its {quantity} [{unit}], mean by map: {told}."
    return themed(draw, alt=alt, height=3.6, caption=caption)


# Lines of at most so many points have markers, and a figure of twice as many has each in its alternative text.
_FEW = 12


def _value(cell: Any, digits: int | None) -> Value | None:
    if is_missing(cell):
        return None
    if not isinstance(cell, Value):
        raise TypeError(f"{cell!r} is a bare number: a figure shows Values, which carry their unit and kind")
    return cell if digits is None else cell.rounded(digits)


def _unit(quantity: str, series: Iterable[Iterable[Value | None]]) -> str:
    units = {value.unit for values in series for value in values if value}
    if not quantity.strip() or len(units) != 1:
        raise ValueError(f"a figure of {quantity!r} needs a quantity, and values of one unit, not {sorted(units)}")
    return units.pop() or "no unit"


def _number(value: Value) -> str:
    return f"{value.number:.{value.digits}f}"


def _course(points: Mapping[float, Value], short: bool) -> str:
    """A line in words: every point of a short one, begin, end and greatest value of a long one."""
    shown = {at: f"{_number(value)} at {at:g}" for at, value in points.items()}
    if short or len(points) < 2:
        return ", ".join(shown.values())
    first, *_, last = points
    best = max(points, key=lambda at: points[at].number)
    return f"from {shown[first]} to {shown[last]}" + ("" if best == last else f", at most {shown[best]}")


def _png(draw: Callable[[Figure], None], theme: str, width: float, height: float) -> str:
    """The drawing's address, and after its closing quotation mark the attributes of its size."""
    with matplotlib.style.context([_STYLES / "figure.mplstyle", _STYLES / f"{theme}.mplstyle"]):
        figure = Figure(figsize=(width, height), dpi=_CSS_DPI * _SHARPNESS, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        for axis in (axes.xaxis for axes in figure.axes if is_narrow(figure)):
            axis.set_label_text(textwrap.fill(axis.get_label_text(), 28))
            if isinstance(locator := axis.get_major_locator(), AutoLocator):
                locator.set_params(nbins=4)
        figure.canvas.draw()
        _demand_labels(figure)
        buffer = io.BytesIO()
        # No date and no version in the file: the same data gives the same bytes.
        figure.savefig(buffer, format="png", transparent=True, metadata={"Software": None})
    width, height = (round(inches * _CSS_DPI) for inches in figure.get_size_inches())
    return f'{_data_uri(buffer.getvalue())}" width="{width}" height="{height}"'


def _demand_labels(figure: Figure) -> None:
    for axis in (axis for axes in figure.axes if axes.axison for axis in (axes.xaxis, axes.yaxis)):
        numeric = isinstance(axis.get_major_formatter(), (ScalarFormatter, LogFormatter)) and axis.get_ticklocs().size
        if numeric and not axis.get_label_text().strip():
            raise ValueError("a numeric axis has no label: write its quantity and unit, such as 'latency [ms]'")


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _caption(caption: str) -> str:
    return f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
