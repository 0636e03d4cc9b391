"""The paper's own numbers and statements, with their places: the reader of ``paper.yaml``.

Z. Du, J. Liu, J. Tang, G. Wu, "Anchor-based Plain Net for Mobile Image Super-Resolution", CVPR Workshops 2021,
arXiv 2105.09750. Nothing here was measured by this project: a page that shows one of these values marks it as quoted.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from abpn_lib.values import Value

if TYPE_CHECKING:
    import pandas as pd

_FILE = importlib.resources.files("abpn_lib") / "paper.yaml"
_CONTENT: Mapping[str, Any] = yaml.load(_FILE.read_text("utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))

SECTIONS: Mapping[str, str] = _CONTENT["sections"]
"""Tables, figures and sections that make a claim, in the ledger's order, with a title for each."""

NPUS: Mapping[str, Any] = _CONTENT["npus"]
"""Which claims are judged on which NPUs: see `abpn_lib.claims.shapes.Npus`."""

# The rows of Tables 1 to 4 and Figure 3's methods: id -> name, in the paper's order.
META_NODES, TABLE2, COMPARED, CHALLENGE, FIGURE3 = (
    {id: name for id, (name, *_) in _CONTENT["tables"][table]["rows"].items()}
    for table in ("T1", "T2", "T3", "T4", "F3.img004")
)


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


def quoted(id: str) -> Quoted:
    """One entry of `QUOTED`; a KeyError where the paper has no value of that id here."""
    if id not in QUOTED:
        raise KeyError(f"no quoted value is called {id!r}; ids look like T2.abpn.int8, F3.img004.abpn.psnr or S13.none")
    return QUOTED[id]


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
    return pd.DataFrame(cells, index=pd.Index(_CONTENT["tables"][id]["rows"], name="network"), dtype=object)


def statements() -> Mapping[str, str]:
    """What the paper claims, each as a sentence, by the claims' ids in the ledger's order: tables' cells come first."""
    cells = {entry.id: sentence for id in _CONTENT["tables"] for _, entry, sentence in _cells(id)}
    return {**cells, **{id: content["text"] for id, content in _CONTENT["statements"].items()}}


def rules() -> Mapping[str, Mapping[str, Any]]:
    """The rules of statements and of some cells as data, by their ids: see `abpn_lib.claims.shapes`."""
    found = {id: content["rule"] for id, content in _CONTENT["statements"].items()}
    for id, content in _CONTENT["tables"].items():
        given = content.get("rules", {})
        for column, entry, _ in _cells(id):
            if rule := given.get(entry.id.removeprefix(f"{id}."), given.get(column)):
                found[entry.id] = rule
    return found


def score(psnr: float, milliseconds: float) -> float:
    """The challenge score that Table 4's rows follow: 2^(2 · PSNR − 48) / latency (PSNR in dB, latency in ms)."""
    return 2.0 ** (2 * psnr - 48) / milliseconds


def _quoted() -> Mapping[str, Quoted]:
    found = {entry.id: entry for id in _CONTENT["tables"] for _, entry, _ in _cells(id)}
    for id, content in _CONTENT["statements"].items():
        found[id] = Quoted(id, content["where"], None, "", content["text"])
        for key, (number, unit, printed, *place) in content.get("numbers", {}).items():
            where = place[0] if place else content["where"]
            found[f"{id}.{key}"] = Quoted(f"{id}.{key}", where, float(number), unit, printed)
    return found


def _cells(table: str) -> Iterator[tuple[str, Quoted, str]]:
    """The cells of a table, row by row: the column, the quoted value, and the sentence that the paper claims by it."""
    content = _CONTENT["tables"][table]
    columns = content["columns"]
    for row, (name, *cells) in content["rows"].items():
        for (column, (heading, unit, sentence)), digits in zip(columns.items(), cells, strict=True):
            id = f"{table}.{row}" if len(columns) == 1 else f"{table}.{row}.{column}"
            entry = Quoted(id, f"{content['where']}, {name}, {heading}", float(digits), unit, digits)
            claim = sentence.format(name=name, shown=entry.shown)
            yield column, entry, f"{claim[0].upper()}{claim[1:]}"


QUOTED = _quoted()
"""Every quoted value by its id: T1.<node>, T2.<network>.<column>, ..., S1, ..., and S13.none for a number in S13."""
