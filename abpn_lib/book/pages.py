"""One page of the book while it runs: the records that it makes, and those it can fall back on."""

from __future__ import annotations

import html
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abpn_lib import datasets, results
from abpn_lib.book.boxes import provenance, verdicts
from abpn_lib.book.tables import Html, note
from abpn_lib.results import Context, Record
from abpn_lib.values import MARKS

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Page:
    """A notebook's run: its context (machine, versions, commit, command) and what it has measured so far."""

    name: str
    context: Context
    measured: list[Record] = field(default_factory=list)

    def keep(self, *groups: Iterable[Record]) -> None:
        """Add records to those of this run, and write them all to ``$ABPN_RECORDS_OUT/NAME.json`` (``_build/records``).

        What was measured before under the same conditions is replaced, so that a cell may run twice.
        """
        known = {record.id: record for record in self.measured}
        known |= {record.id: record for group in groups for record in group}
        self.measured = list(known.values())
        folder = Path(os.environ.get("ABPN_RECORDS_OUT") or "_build/records")
        folder.mkdir(parents=True, exist_ok=True)
        results.save(folder / f"{self.name}.json", self.measured)

    @property
    def records(self) -> list[Record]:
        """What this run has measured, and what is shipped with the library."""
        return [*self.measured, *results.recorded()]

    def frame(self, quantity: str, **where: Any) -> pd.DataFrame:
        """The tidy frame of one quantity (`results.frame`) over them: measured where this run did, else recorded.

        Beside its columns it has `name`, that of the model, such as "abpn-seed1-int8-ptq".
        """
        found = results.frame(quantity, self.records, **where)
        return found.assign(name=[record.subject for record in found.record])

    def pivot(self, quantity: str, rows: str | list[str], columns: str, **where: Any) -> pd.DataFrame:
        """That frame spread out: its values by one or more columns (down) and by another (across).

        Down and across stand in the order in which `where` lists them, as in ``dataset=BENCHMARKS``.
        """
        values = self.frame(quantity, **where).pivot(index=rows, columns=columns, values="value")

        def place(level: pd.Index) -> pd.Index:
            asked = where.get(str(level.name))
            order = [] if asked is None or isinstance(asked, (str, int)) else list(asked)
            return level.map(order.index) if order else level

        return values.sort_index(key=place).sort_index(axis=1, key=place)

    def at_hand(self, *names: str) -> list[str]:
        """Those of these data sets that this run can read."""
        return [name for name in names if datasets.available(name)]

    def first_at_hand(self, *names: str) -> str:
        """The first of these data sets that this run can read; "embedded" always can be."""
        return next(iter(self.at_hand(*names)), "embedded")

    def verdicts(self, *ids: str) -> Html:
        """Claims judged by this page's records and the shipped ones, and where this page's values come from."""
        boxes, sources = verdicts(ids, self.records), provenance(self.measured)
        return Html(boxes.html + sources.html, f"{boxes.text}\n{sources.text}")


def page(name: str) -> Page:
    """Begin the page of the notebook called `name`: show what its numbers look like, the images at hand, the device."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow sets its logger's level when it is imported, and tells the temporary folder of every export.
    logging.getLogger("tensorflow").addFilter(lambda entry: entry.levelno >= logging.ERROR)
    begun = Page(name, Context.here(f"papermill notebooks/{name}.ipynb"))
    device = note("This run is on {}.", begun.context.device)
    shown = [_legend(), _data_note(), device]
    _show(Html("".join(part.html for part in shown), "\n".join(part.text for part in shown)))
    return begun


def _show(piece: Html) -> None:
    try:
        from IPython.display import display
    except ModuleNotFoundError:
        print(piece)
    else:
        display(piece)


def _legend() -> Html:
    rows = [
        f'<span class="kind-{kind}">{html.escape(f"{before}30.09 dB{after}")}</span> {meaning}'
        for kind, (before, after, meaning) in MARKS.items()
    ]
    return Html(f'<p class="legend">{" · ".join(rows)}</p>', "“ ” quoted, ● recorded, ■ measured, ◇ estimated")


def _data_note() -> Html:
    names = datasets.SCORED
    absent = [name for name in names if not datasets.available(name)]
    here = ", ".join(name for name in names if name not in absent)
    if not absent:
        return note("Images at hand in this run: {}.", here)
    return note(
        "Images at hand in this run: {}. Not at hand: {}; their values below are recorded ones. Fetch a set with "
        "`abpn data fetch {}` and run this page again to measure them.", here, ", ".join(absent), absent[0],
    )
