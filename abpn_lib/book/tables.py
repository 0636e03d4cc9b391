"""Tables and sentences in which every number is a `Value` and shows its kind, and what is taken over them."""

from __future__ import annotations

import html
import itertools
import math
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from abpn_lib import values
from abpn_lib.values import MARKS, Kind, Value, is_missing

if TYPE_CHECKING:
    import pandas as pd

# Read aloud and by tests, not seen: the style stands inline since a plain notebook has no stylesheet of ours.
_UNSEEN = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap"

Best = Callable[..., Any]  # max or min

# An interval, as `Value.span` writes it, and its unit.
_SPAN = re.compile(r"-?[\d.,]+ to -?[\d.,]+ ?([^\s(]*)")

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


def inline(cell: object, *, unit: bool = True, mark: bool = True) -> str:
    """One cell as HTML: a value with its kind and source, a piece of HTML, or text; a bare number is refused.

    Without `unit` or `mark` the value shows its number alone, since a heading says the rest.
    """
    if isinstance(cell, Html):
        return cell.html
    if isinstance(cell, str):
        return html.escape(cell)
    if not isinstance(cell, Value):
        raise TypeError(f"{cell!r} is a bare number: show it as a Value, which carries its kind")
    shown = html.escape(str(cell if unit else replace(cell, unit="1"))).replace("-", "\N{MINUS SIGN}", 1)
    return (
        f'<span class="value kind-{cell.kind}" title="{html.escape(cell.source)}" style="white-space:nowrap">'
        f"{_marked(shown, cell.kind, mark)}</span>"
    )


def _marked(shown: str, kind: Kind, mark: bool = True) -> str:
    """Text in the marks of its kind, which are read aloud as words; or, if it has them and is not to, without them."""
    before, after, meaning = MARKS[kind]
    shown = shown.removeprefix(before).removesuffix(after)
    if not mark:
        return shown
    if kind != "quoted":
        # The mark stays with the word or number behind it.
        glued = before.replace(" ", "\N{NO-BREAK SPACE}")
        before = f'<span style="{_UNSEEN}">{meaning}: </span><span aria-hidden="true">{glued}</span>'
    return f"{before}{shown}{after}"


def note(text: str, *cells: Value | str, **named: Value | str) -> Html:
    """A sentence with values in it: each {} or {name} of `text` is shown as `inline` does, `code` as code."""
    marked = re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    shown = marked.format(*map(inline, cells), **{name: inline(cell) for name, cell in named.items()})
    return Html(f"<p>{shown}</p>", text.format(*cells, **named))


def table(
    content: pd.DataFrame | pd.Series | Iterable[Sequence[Any]], header: Sequence[Any] = (), *, caption: str,
    rename: Mapping[Any, str] | None = None, digits: int | Mapping[str, int] | None = None,
    best: Mapping[str, Best] | None = None, absent: str = "not recorded", id: str = "",
) -> Html:
    """A table whose first column names the rows. Numbers come as `Value`, so that each shows its kind.

    `content` is a frame, whose index names the rows and whose columns are the headings, or rows of cells with a
    `header`. An outer label of the index heads its rows; headings "PSNR, paper" and "PSNR, here" stand below one
    "PSNR". Unit and kind stand in the heading where all values below it share them. Cells are a `Value`, text,
    `Html`, or missing: then `absent` is shown. `rename` gives rows and headings other names. `digits` are shown after
    the point, of all our values or by heading (as renamed); the paper's keep the digits that it prints. ``best={"dB":
    max}`` sets apart the greatest value of each column in dB (or, with ``min``, the least), below each outer label.
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
    for head, below in zip(heads, zip(*rows, strict=True), strict=True):
        kinds = {cell.kind for cell in below if isinstance(cell, Value)}
        if "estimated" in kinds and len(kinds) > 1:
            raise TypeError(f"{head!r} mixes estimated values with {' and '.join(sorted(kinds - {'estimated'}))} ones")
    plain = "\n".join("\t".join(map(str, row)) for row in [heads, *rows])
    outer = [row[0] for row in rows] if any(row[0] == "" for row in rows) else []
    columns = [list(column) for column in zip(*rows, strict=True)][bool(outer):]
    heads = heads[bool(outer):]
    cells = [[f'<th scope="row" style="text-align:left">{inline(cell)}</th>' for cell in columns[0]]]
    for column in columns[1:]:
        cells.append(list(_cells(column, set(_best(column, outer, (best or {}).get(_unit(column)))))))
    body = ""
    for number, row in enumerate(zip(*cells, strict=True)):
        if outer and outer[number]:
            body += f'<tr><th scope="rowgroup" colspan="{len(heads)}" style="text-align:left">'
            body += f"<span>{inline(outer[number])}</span></th></tr>"
        body += f"<tr>{''.join(row)}</tr>"
    name = id or "table-" + re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")[:60]
    return Html(
        # Focusable, so that a keyboard can scroll it on a narrow screen.
        f'<div class="table-scroll" style="overflow-x:auto" role="region" tabindex="0" '
        f'aria-labelledby="{name}-caption">'
        f'<table id="{name}"><caption style="text-align:left"><span id="{name}-caption">{html.escape(caption)}</span>'
        f"</caption><thead>{_head(heads, columns)}</thead><tbody>{body}</tbody></table></div>",
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
            cells[f"{heading}, interval"] = cells[f"{heading}, {ours}"].map(lambda cell: getattr(cell, "span", ""))
    frame = pd.DataFrame(cells, index=pd.Index(list(rows), name="network"), dtype=object)
    return table(frame, caption=caption, rename={**rows, **shown.pop("rename", {})}, **shown)


def mean(content: Any, over: str, *, with_range: bool = False) -> Any:
    """The plain mean of values over one level of the index of a series or frame; a mean of missing ones is missing.

    Its interval is empty, or `with_range` from the least value to the greatest.
    """
    levels = [level for level in content.index.names if level != over]

    def of(cells: Iterable[Any]) -> Any:
        there = [cell for cell in cells if not is_missing(cell)]
        if not there:
            return math.nan
        ends = min(map(float, there)), max(map(float, there))
        return replace(values.mean(there), interval=ends if with_range else None)

    if not levels:
        return of(content) if content.ndim == 1 else content.apply(of)
    return content.groupby(level=levels, sort=False).agg(of)


def mean_and_range(content: pd.DataFrame, over: str, *, digits: int = 2) -> pd.DataFrame:
    """For every column of a frame its mean over a level of the index, and from what to what the values reach."""
    import pandas as pd

    levels = [level for level in content.index.names if level != over]
    means, counts = mean(content, over, with_range=True), content.groupby(level=levels, sort=False).count()
    parts: dict[str, list[Any]] = {}
    for column in content:
        of = list(counts[column])
        same = len(set(of)) == 1
        shown = [one if is_missing(one) else one.rounded(digits) for one in means[column]]
        told = ["" if same else f" ({count} {over}{'s' if count > 1 else ''})" for count in of]
        parts[f"{column}, mean"] = shown
        parts[f"{column}, range of {of[0]} {over}s" if same else f"{column}, from and to"] = [
            one if is_missing(one) else one.span + count for one, count in zip(shown, told, strict=True)
        ]
    return pd.DataFrame(parts, means.index)


def _of_frame(content: Any, rename: Mapping[Any, str]) -> tuple[list[list[Any]], list[Any]]:
    frame = content.to_frame() if content.ndim == 1 else content
    names = [_HEADINGS.get(name, name or "") for name in frame.index.names]
    rows: list[list[Any]] = []
    before: Any = None
    for index, row in zip(frame.index, frame.itertuples(index=False, name=None), strict=True):
        labels = index if isinstance(index, tuple) else (index,)
        # An outer label stands once for all of its rows.
        outer = [""] if len(labels) > 1 and labels[0] == before else [rename.get(labels[0], str(labels[0]))]
        rows.append([*outer, *(rename.get(label, str(label)) for label in labels[1:]), *row])
        before = labels[0]
    return rows, [*names, *(_HEADINGS.get(column, column) for column in frame.columns)]


def _shown(cell: Any, rename: Mapping[Any, str], digits: int | None, absent: str) -> Any:
    if is_missing(cell):
        return absent
    if isinstance(cell, Value):
        return cell if digits is None or cell.kind == "quoted" else cell.rounded(digits)
    return rename.get(cell, cell) if isinstance(cell, str) else cell


def _unit(cells: Sequence[Any]) -> str:
    """The one unit of all values and intervals among some cells; "" where there is none, or more than one."""
    units = {cell.unit for cell in cells if isinstance(cell, Value)}
    units |= {span[1] for cell in cells if isinstance(cell, str) and (span := _SPAN.match(cell))}
    return units.pop() if len(units) == 1 and units != {"1"} else ""


def _kind(cells: Sequence[Any]) -> Kind | None:
    kinds = {cell.kind for cell in cells if isinstance(cell, Value)}
    return kinds.pop() if len(kinds) == 1 else None


def _cells(column: Sequence[Any], best: Container[int]) -> Iterator[str]:
    """A column's cells: numbers end on the right, with room for the digits that others have more after the point."""
    unit, mark = _unit(column), not _kind(column)
    digits = [cell.digits if isinstance(cell, Value) else -1 for cell in column]
    for number, cell in enumerate(column):
        side, extra = "right" if max(digits) >= 0 and not isinstance(cell, Html) else "left", ""
        if isinstance(cell, Value) and digits[number] < max(digits):
            extra = f' data-pad="{"" if cell.digits else "."}{"0" * (max(digits) - cell.digits)}"'
        elif isinstance(cell, str) and _SPAN.match(cell):
            cell, side = cell.replace(f" {unit}" if unit else "", "").replace("-", "\N{MINUS SIGN}"), "right"
        bold = (";font-weight:bold", ' class="best"') if number in best else ("", "")
        yield f'<td style="text-align:{side}{bold[0]}"{bold[1]}{extra}>{inline(cell, unit=not unit, mark=mark)}</td>'


def _best(column: Sequence[Any], outer: Sequence[Any], of: Best | None) -> Iterator[int]:
    """The rows of the best values of a column, as they are shown, below each outer label."""
    labels = itertools.accumulate(bool(label) for label in outer or [""] * len(column))
    for _, group in itertools.groupby(zip(labels, range(len(column)), strict=True), key=lambda pair: pair[0]):
        there = {row: str(column[row]) for _, row in group if isinstance(column[row], Value)}
        if of and len(there) > 1:
            winner = of(there, key=lambda row: float(column[row]))
            yield from (row for row, shown in there.items() if shown == there[winner])


def _head(heads: Sequence[str], columns: Sequence[Sequence[Any]]) -> str:
    """The heading row; above it the names that neighbours share up to a comma, where there are such."""
    groups = [list(group) for _, group in itertools.groupby(range(len(heads)), lambda at: heads[at].partition(", ")[0])]
    rows = ["", ""]
    for group in groups:
        shared, unit, deep = heads[group[0]].partition(", ")[0], "", len(group) > 1
        if deep:
            unit = _unit([cell for at in group for cell in columns[at]])
            rows[0] += f'<th scope="colgroup" colspan="{len(group)}">{html.escape(shared)}{_bracketed(unit)}</th>'
        for at in group:
            kind, name = _kind(columns[at]), html.escape(heads[at].removeprefix(f"{shared}, ") if deep else heads[at])
            name = f'<span class="kind-{kind}">{_marked(name, kind)}</span>' if kind else name
            span = "" if deep or len(groups) == len(heads) else ' rowspan="2"'
            name += "" if unit else _bracketed(_unit(columns[at]))
            rows[deep] += f'<th scope="col"{span}>{name}</th>' if name else f"<td{span}></td>"
    return "".join(f"<tr>{row}</tr>" for row in rows if row)


def _bracketed(unit: str) -> str:
    return f' <span class="unit" style="font-weight:normal">[{html.escape(unit)}]</span>' if unit else ""


def _of_kind(series: pd.Series, heading: str, *, quoted: bool) -> pd.Series:
    if any(isinstance(cell, Value) and (cell.kind == "quoted") != quoted for cell in series):
        raise TypeError(f"{heading!r} mixes the paper's values and ours: quoted ones come first, ours second")
    return series
