"""Tables and sentences in which every number is a `Value` and shows its kind, and what is taken over them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from abpn_lib import values
from abpn_lib.values import MARKS, Value, is_missing

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Html", "compare", "inline", "mean", "mean_and_range", "note", "table"]

# Read aloud and by tests, not seen: the style stands inline since a plain notebook has no stylesheet of ours.
_UNSEEN = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap"

# How the columns of records are headed, unless a page renames them.
_HEADINGS = {
    "network": "Network", "dataset": "Data set", "form": "Form", "seed": "Seed", "threads": "Threads", "image": "Image",
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


def inline(cell: object) -> str:
    """One cell as HTML: a value with its kind and source, a piece of HTML, or text; a bare number is refused."""
    if isinstance(cell, Html):
        return cell.html
    if isinstance(cell, str):
        return html.escape(cell)
    if not isinstance(cell, Value):
        raise TypeError(f"{cell!r} is a bare number: show it as a Value, which carries its kind")
    shown, (mark, _, meaning) = html.escape(str(cell)), MARKS[cell.kind]
    if cell.kind != "quoted":
        spoken = f'<span aria-hidden="true">{mark}</span><span style="{_UNSEEN}">{meaning}: </span>'
        shown = shown.replace(mark, spoken, 1)
    return (
        f'<span class="value kind-{cell.kind}" title="{html.escape(cell.source)}" style="white-space:nowrap">'
        f"{shown}</span>"
    )


def note(text: str, *cells: Value | str, **named: Value | str) -> Html:
    """A sentence with values in it: each {} or {name} of `text` is shown as `inline` does, `code` as code."""
    marked = re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    shown = marked.format(*map(inline, cells), **{name: inline(cell) for name, cell in named.items()})
    return Html(f"<p>{shown}</p>", text.format(*cells, **named))


def table(
    content: pd.DataFrame | pd.Series | Iterable[Sequence[Any]], header: Sequence[str] = (), *, caption: str,
    rename: Mapping[Any, str] | None = None, digits: int | Mapping[str, int] | None = None,
    absent: str = "not recorded", id: str = "",
) -> Html:
    """A table whose first column names the rows. Numbers come as `Value`, so that each shows its kind.

    `content` is a frame, whose index names the rows and whose columns are the headings, or rows of cells with a
    `header`. Cells are a `Value`, text, `Html`, or missing: then `absent` is shown. `rename` gives rows and headings
    other names. `digits` are shown after the point, of all our values or by heading (as renamed); the paper's keep
    the digits that it prints.
    """
    known = rename or {}
    framed = hasattr(content, "ndim")
    rows, heads = _of_frame(content, known) if framed else ([list(row) for row in content], list(header))
    if not caption.strip():
        raise ValueError("a table needs a caption")
    if any(len(row) != len(heads) for row in rows):
        raise ValueError(f"every row of {caption!r} needs {len(heads)} cells")
    if not rows:
        return note("{}: {}.", caption, absent)
    heads = [str(known.get(head, head)) for head in heads]
    places = [digits if isinstance(digits, int) else (digits or {}).get(head) for head in heads]
    rows = [[_shown(cell, known, at, absent) for cell, at in zip(row, places, strict=True)] for row in rows]
    for head, column in zip(heads, zip(*rows, strict=True), strict=True):
        kinds = {cell.kind for cell in column if isinstance(cell, Value)}
        if "estimated" in kinds and len(kinds) > 1:
            raise TypeError(f"{head!r} mixes estimated values with {' and '.join(sorted(kinds - {'estimated'}))} ones")
    head_row = "".join(f'<th scope="col">{html.escape(head)}</th>' for head in heads)
    body = "".join(
        f'<tr><th scope="row" style="text-align:left">{inline(row[0])}</th>'
        + "".join(f'<td style="text-align:right">{inline(cell)}</td>' for cell in row[1:]) + "</tr>"
        for row in rows
    )
    name = id or "table-" + re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")[:60]
    plain = "\n".join(["\t".join(heads), *("\t".join(str(cell) for cell in row) for row in rows)])
    return Html(
        # Focusable, so that a keyboard can scroll it on a narrow screen.
        f'<div class="table-scroll" style="overflow-x:auto" role="region" tabindex="0" '
        f'aria-labelledby="{name}-caption">'
        f'<table id="{name}"><caption id="{name}-caption" style="text-align:left">{html.escape(caption)}'
        f"</caption><thead><tr>{head_row}</tr></thead><tbody>{body}</tbody></table></div>",
        f"{caption}\n{plain}",
    )


def compare(
    rows: Mapping[str, str], columns: Mapping[str, tuple[pd.Series, pd.Series]], caption: str, *, ours: str = "here",
    intervals: bool = False, **shown: Any,
) -> Html:
    """The paper's values beside ours: under each heading two series of values, both indexed by the ids of `rows`.

    `rows` maps ids to names. With `intervals` the interval of our values gets a column of its own. Further arguments
    are those of `table`.
    """
    import pandas as pd

    cells: dict[str, pd.Series] = {}
    for heading, (paper, here) in columns.items():
        cells[f"{heading}, paper"] = _of_kind(paper.reindex(rows), heading, quoted=True).map(
            lambda cell: "not given" if is_missing(cell) else cell
        )
        cells[f"{heading}, {ours}"] = _of_kind(here.reindex(rows), heading, quoted=False)
        if intervals:
            cells["Interval"] = cells[f"{heading}, {ours}"].map(lambda cell: getattr(cell, "span", ""))
    frame = pd.DataFrame(cells, index=pd.Index(list(rows), name="network"), dtype=object)
    return table(frame, caption=caption, rename={**rows, **shown.pop("rename", {})}, **shown)


def mean(content: Any, over: str, *, with_range: bool = False) -> Any:
    """The plain mean of values over one level of the index of a series or frame; a mean of missing ones is missing.

    Its interval is empty, or `with_range` from the least value to the greatest.
    """
    levels = [level for level in content.index.names if level != over]

    def of(cells: Iterable[Any]) -> Any:
        middle, ends = _mean(cells), sorted(map(float, _there(cells)))
        return replace(middle, interval=(ends[0], ends[-1])) if with_range and ends else middle

    if not levels:
        return of(content) if content.ndim == 1 else content.apply(of)
    return content.groupby(level=levels, sort=False).agg(of)


def mean_and_range(content: pd.DataFrame, over: str, *, digits: int = 2) -> pd.DataFrame:
    """For every column of a frame its mean over a level of the index, and from what to what the values reach."""
    import pandas as pd

    levels = [level for level in content.index.names if level != over]
    parts: dict[str, pd.Series] = {}
    for column in content:
        groups = content[column].groupby(level=levels, sort=False)
        parts[f"{column}, mean"] = groups.agg(lambda cells: _rounded(_mean(cells), digits))
        parts[f"{column}, from and to"] = groups.agg(lambda cells: _range(cells, over, digits))
    return pd.DataFrame(parts)


def _of_frame(content: Any, rename: Mapping[Any, str]) -> tuple[list[list[Any]], list[Any]]:
    frame = content.to_frame() if content.ndim == 1 else content
    names = [_HEADINGS.get(name, name or "") for name in frame.index.names]
    rows: list[list[Any]] = []
    before: Sequence[Any] = ()
    for index, row in zip(frame.index, frame.itertuples(index=False, name=None), strict=True):
        labels = index if isinstance(index, tuple) else (index,)
        # An outer label stands once for all of its rows.
        same = next((i for i, (a, b) in enumerate(zip(labels, before, strict=False)) if a != b), 0)
        rows.append([*("" if i < same else rename.get(label, str(label)) for i, label in enumerate(labels)), *row])
        before = labels
    return rows, [*names, *(_HEADINGS.get(column, column) for column in frame.columns)]


def _shown(cell: Any, rename: Mapping[Any, str], digits: int | None, absent: str) -> Any:
    if is_missing(cell):
        return absent
    if isinstance(cell, Value):
        return cell if digits is None or cell.kind == "quoted" else cell.rounded(digits)
    return rename.get(cell, cell) if isinstance(cell, str) else cell


def _of_kind(series: pd.Series, heading: str, *, quoted: bool) -> pd.Series:
    if any(isinstance(cell, Value) and (cell.kind == "quoted") != quoted for cell in series):
        raise TypeError(f"{heading!r} mixes the paper's values and ours: quoted ones come first, ours second")
    return series


def _there(cells: Iterable[Any]) -> list[Value]:
    return [cell for cell in cells if not is_missing(cell)]


def _mean(cells: Iterable[Any]) -> Any:
    there = _there(cells)
    return values.mean(there) if there else float("nan")


def _rounded(cell: Any, digits: int) -> Any:
    return cell if is_missing(cell) else cell.rounded(digits)


def _range(cells: Iterable[Any], over: str, digits: int) -> Any:
    there = sorted(_there(cells), key=float)
    if not there:
        return float("nan")
    count = f"{len(there)} {over}{'s' if len(there) > 1 else ''}"
    return f"{there[0].number:.{digits}f} to {there[-1].number:.{digits}f} {there[0].unit}".strip() + f" ({count})"
