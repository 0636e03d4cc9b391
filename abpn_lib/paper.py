"""The paper's own numbers and statements, with their places, and facts read elsewhere: the reader of ``paper.yaml``.

Z. Du, J. Liu, J. Tang, G. Wu, "Anchor-based Plain Net for Mobile Image Super-Resolution", CVPR Workshops 2021,
arXiv 2105.09750. Nothing here was measured by this project: a page that shows one of these values marks it as quoted.
`ELSEWHERE` holds what does not come from the paper at all.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from abpn_lib.values import Value

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CHALLENGE", "COMPARED", "ELSEWHERE", "FIGURE3", "META_NODES", "QUOTED", "SECTIONS", "TABLE2", "Fact", "Quoted",
    "quoted", "rules", "score", "statements", "table", "value",
]

# Read from the file when first asked for, not at import.
META_NODES: Mapping[str, str]  # Table 1's rows: id -> name, in the paper's order, as are the next ones
TABLE2: Mapping[str, str]
COMPARED: Mapping[str, str]  # Table 3's rows
CHALLENGE: Mapping[str, str]  # Table 4's rows
FIGURE3: Mapping[str, str]  # Figure 3's methods
SECTIONS: Mapping[str, str]
"""Tables, figures and sections that make a claim, in the ledger's order, with a title for each."""
QUOTED: Mapping[str, Quoted]
"""Every quoted value by its id: T1.<node>, T2.<network>.<column>, ..., S1, ..., and S13.none for a number in S13."""
ELSEWHERE: Mapping[str, Fact]
"""What a reader who rebuilds the network meets at once, and the paper does not say: id -> fact with its source."""


@dataclass(frozen=True)
class Quoted:
    """One value or statement of the paper.

    `text` holds the digits as the paper prints them, or, where `value` is None, a statement in our
    own words. `unit` is "ms", "dB", "K", "", ...
    """

    id: str
    where: str
    value: float | None
    unit: str
    text: str

    @property
    def number(self) -> float:
        """The value. Raises `ValueError` if this is a statement without one."""
        if self.value is None:
            raise ValueError(f"{self.id} is a statement, not a number")
        return self.value

    @property
    def shown(self) -> str:
        """The digits with their unit, or the statement."""
        return f"{self.text} {self.unit}".strip()


@dataclass(frozen=True)
class Fact:
    """Something worth knowing beside the paper that the paper does not say; `source` says who does."""

    id: str
    text: str
    source: str
    value: float | None = None
    unit: str = ""


def quoted(id: str) -> Quoted:
    """One entry of `QUOTED`; a KeyError where the paper has no value of that id here."""
    entries = _quoted()
    if id not in entries:
        raise KeyError(f"no quoted value is called {id!r}; ids look like T2.abpn.int8, F3.img004.abpn.psnr or S13.none")
    return entries[id]


def value(id: str) -> Value:
    """A number of the paper as a page shows it, with the digits that it prints."""
    entry = quoted(id)
    digits = len(entry.text.partition(".")[2])
    return Value(entry.number, entry.unit, "quoted", f"the paper, {entry.where}", digits)


def table(id: str) -> pd.DataFrame:
    """A table of the paper ("T1" to "T4", "F3.img004") as quoted Values: its rows by its columns, by their ids."""
    import pandas as pd

    cells: dict[str, list[Value]] = {}
    for column, entry, _ in _cells(id):
        cells.setdefault(column, []).append(value(entry.id))
    return pd.DataFrame(cells, index=pd.Index(_content()["tables"][id]["rows"], name="network"), dtype=object)


def statements() -> Mapping[str, str]:
    """What the paper claims, each as a sentence, by the claims' ids in the ledger's order: tables' cells come first."""
    cells = {entry.id: sentence for id in _content()["tables"] for _, entry, sentence in _cells(id)}
    return {**cells, **{id: content["text"] for id, content in _content()["statements"].items()}}


def rules() -> Mapping[str, Mapping[str, Any]]:
    """The rules of statements and of some cells as data, by their ids: see `abpn_lib.claims.shapes`."""
    found = {id: content["rule"] for id, content in _content()["statements"].items()}
    for id, content in _content()["tables"].items():
        given = content.get("rules", {})
        for column, entry, _ in _cells(id):
            if rule := given.get(entry.id.removeprefix(f"{id}."), given.get(column)):
                found[entry.id] = rule
    return found


def score(psnr: float, milliseconds: float) -> float:
    """The challenge score that Table 4's rows follow: 2^(2 · PSNR − 48) / latency (PSNR in dB, latency in ms)."""
    return 2.0 ** (2 * psnr - 48) / milliseconds


_TABLES = {"META_NODES": "T1", "TABLE2": "T2", "COMPARED": "T3", "CHALLENGE": "T4", "FIGURE3": "F3.img004"}


def __getattr__(name: str) -> Mapping[str, Any]:
    if name in _TABLES:
        return {id: cells[0] for id, cells in _content()["tables"][_TABLES[name]]["rows"].items()}
    if name == "QUOTED":
        return _quoted()
    if name == "ELSEWHERE":
        return {id: Fact(id, **content) for id, content in _content()["elsewhere"].items()}
    if name == "SECTIONS":
        return _content()["sections"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _content() -> Mapping[str, Any]:
    import yaml  # type: ignore[import-untyped]

    text = (importlib.resources.files("abpn_lib") / "paper.yaml").read_text(encoding="utf-8")
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@functools.cache
def _quoted() -> Mapping[str, Quoted]:
    found = {entry.id: entry for id in _content()["tables"] for _, entry, _ in _cells(id)}
    for id, content in _content()["statements"].items():
        found[id] = Quoted(id, content["where"], None, "", content["text"])
        for key, (number, unit, printed, *place) in content.get("numbers", {}).items():
            where = place[0] if place else content["where"]
            found[f"{id}.{key}"] = Quoted(f"{id}.{key}", where, float(number), unit, printed)
    return MappingProxyType(found)


def _cells(table: str) -> Iterator[tuple[str, Quoted, str]]:
    """The cells of a table, row by row: the column, the quoted value, and the sentence that the paper claims by it."""
    content = _content()["tables"][table]
    columns = content["columns"]
    for row, (name, *cells) in content["rows"].items():
        for (column, (heading, unit, sentence)), digits in zip(columns.items(), cells, strict=True):
            id = f"{table}.{row}" if len(columns) == 1 else f"{table}.{row}.{column}"
            entry = Quoted(id, f"{content['where']}, {name}, {heading}", float(digits), unit, digits)
            claim = sentence.format(name=name, shown=entry.shown)
            yield column, entry, f"{claim[0].upper()}{claim[1:]}"
