"""The record: one measured value with everything needed to trace it and to measure it again.

A record has **columns** that say of what and under which conditions it was measured: network, form ("fp32",
"int8-ptq", ...), seed, dataset, protocol, size, threads, kernels, ... Pages ask for a tidy `frame` of them.
Those of long runs are shipped in ``abpn_lib/records`` (kind *recorded*); those of the run at hand are made by
`Context.record` (kind *measured*). One with a column "compiler" is that compiler's word, wherever it comes from (kind
*estimated*). A quoted value is never a record: it stands in `abpn_lib.paper`.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import importlib.resources
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from abpn_lib.files import DataError, write_atomically
from abpn_lib.values import Value

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["measured", "recorded", "estimated"]
Column = str | int

ANY = object()
"""As a condition of `frame` or `find`: whatever stands in that column, and also nothing."""

PROTOCOL = "rgb-border1"
"""The authors' protocol by its name in the records: PSNR in RGB, one border pixel cropped."""

# What is meant unless a condition says otherwise: the authors' protocol, a whole data set, the first seed.
_USUAL: Mapping[str, Any] = {"protocol": PROTOCOL, "image": None, "reading": None}
_SCORES = ("psnr", "ssim")


@dataclass(frozen=True)
class Context:
    """Where and by which command values are measured: what all records of one run share."""

    command: str
    device: str
    versions: Mapping[str, str]
    commit: str
    date: str

    @classmethod
    def here(cls, command: str) -> Context:
        """The context of this machine, this moment and this code."""
        return cls(command, _device(), _versions(), _commit(), datetime.datetime.now(datetime.UTC).date().isoformat())

    def record(
        self, quantity: str, subject: str, value: float, unit: str, where: Mapping[str, Column] | None = None, *,
        count: int = 1, spread: tuple[float, float] | None = None, spread_is: str = "", model_sha256: str = "",
        **columns: Column,
    ) -> Record:
        """A freshly measured value of `subject`, a model's name such as "abpn-seed1-int8-ptq" (see `columns_of`).

        `where` and `columns` are its further columns; with a "compiler" among them it is that one's estimate.
        """
        every = {**columns_of(subject), **(where or {}), **columns}
        kind = _kind(every, "measured")
        return Record(quantity, float(value), unit, every, self, count, spread, spread_is, model_sha256, kind)


@dataclass(frozen=True)
class Record:
    """One measured value.

    `quantity` is what was measured ("psnr", "latency", ...), `columns` of what and under which conditions.
    `spread` is an interval (low, high) in the same unit, and `spread_is` says which. `count` is the number of images
    or repeats behind the value.
    """

    quantity: str
    value: float
    unit: str
    columns: Mapping[str, Column]
    context: Context
    count: int = 1
    spread: tuple[float, float] | None = None
    spread_is: str = ""
    model_sha256: str = ""
    kind: Kind = "recorded"

    @property
    def subject(self) -> str:
        """Of what this was measured, as a name: the inverse of `columns_of`."""
        seed = f"-seed{self.columns['seed']}" if self.columns.get("seed") else ""
        form = f"-{self.columns['form']}" if self.columns.get("form") else ""
        part = f"#{self.columns['operator']}" if "operator" in self.columns else ""
        over = f"/{self.columns['over']}" if "over" in self.columns else ""
        return f"{self.columns.get('network', '')}{seed}{form}{part}{over}"

    @property
    def id(self) -> str:
        """What is measured, in one line: two records of one id measure the same quantity."""
        conditions = ",".join(f"{key}={self.columns[key]}" for key in sorted(self.columns.keys() - _NAME.groupindex))
        return f"{self.quantity}/{self.subject}" + (f"[{conditions}]" if conditions else "")

    @property
    def shown(self) -> Value:
        """The value as a page shows it: with unit, kind, interval and source."""
        digits = 0 if self.unit == "bytes" else _DIGITS.get(self.quantity, 2)
        return Value(self.value, self.unit, self.kind, f"{self.id}; {self.context.command}", digits, self.spread)

    @property
    def row(self) -> dict[str, Any]:
        """The record as one flat row, its columns and its context's fields beside its own, for printing."""
        own = {key: value for key, value in asdict(self).items() if key not in ("columns", "context")}
        return {**own, **self.columns, **asdict(self.context)}

    def get(self, column: str, default: Any = None) -> Any:
        """What stands in a column, or `default`."""
        return self.columns.get(column, default)


# Shown after the point, where it is not two.
_DIGITS = {
    "anchor-difference": 0, "crop-matches": 0, "dead-channels": 0, "guest-instructions": 0, "latency": 1,
    "layer-parameters": 0, "npu-refused": 0, "parameters": 0, "runtime-difference": 0, "runtime-equal": 3,
    "ssim": 4, "training-steps": 0,
}
_NAME = re.compile(r"(?P<network>[^/#]+?)(?:-seed(?P<seed>\d+))?(?:-(?P<form>(?:fp32|int8)[^/#]*))?"
                   r"(?:#(?P<operator>[^/]*))?(?:/(?P<over>.*))?")


@functools.cache
def columns_of(name: str) -> Mapping[str, Column]:
    """What a model's name says: network, seed (if not the first), form; after # one operator, after / what it is over.

    That of "abpn-seed1-int8-ptq" is ``{"network": "abpn", "seed": 1, "form": "int8-ptq"}``.
    """
    found = _NAME.fullmatch(name)
    named = {key: text for key, text in found.groupdict().items() if text} if found else {}
    return {key: int(text) if key == "seed" else text for key, text in named.items()}


def frame(quantity: str, records: Iterable[Record] | None = None, **where: Any) -> pd.DataFrame:
    """The records of one quantity as a tidy pandas frame: a row each, a column for each of their columns.

    The further columns are `value` (a `Value`), `count`, `kind` and `record`. `records` are the shipped ones unless
    others are given. `where` names conditions: a value, a list of values, None (nothing in that column) or `ANY`.
    PSNR and SSIM are those of whole data sets under the authors' protocol, unless conditions say otherwise. Where
    several records measure the same, one of the run at hand is kept.
    """
    import pandas as pd

    found = select(quantity, recorded() if records is None else records, **where)
    rows = [{"seed": 0, **r.columns, "value": r.shown, "count": r.count, "kind": r.kind, "record": r} for r in found]
    wanted = [key for key, value in where.items() if value is not None and value is not ANY]
    return pd.DataFrame(rows, columns=None if rows else [*wanted, "value", "count", "kind", "record"])


def select(quantity: str, records: Iterable[Record], **where: Any) -> list[Record]:
    """The records that `frame` has rows of; of those that measure the same, the measured or else the first one."""
    if quantity in _SCORES:
        where = {**_USUAL, **where}
    best: dict[str, Record] = {}
    for record in records:
        if record.quantity == quantity and all(_holds(record, key, wanted) for key, wanted in where.items()):
            known = best.get(record.id)
            if known is None or (known.kind, record.kind) == ("recorded", "measured"):
                best[record.id] = record
    return list(best.values())


def _holds(record: Record, column: str, wanted: Any) -> bool:
    found = record.columns.get(column, 0 if column == "seed" else None)
    if wanted is ANY:
        return True
    return found in wanted if isinstance(wanted, (list, tuple, set, Mapping)) else found == wanted


def find(quantity: str, records: Iterable[Record], **where: Any) -> Record:
    """The first record that `frame` would have a row of. Raises `DataError` if there is none."""
    for record in select(quantity, records, **where):
        return record
    raise DataError(f"no record of {quantity} with {where}")


# Files: contexts stand once, and a row names its own by number.
_FIELDS = ("quantity", "value", "unit", "count", "spread", "spread_is", "model_sha256", "context")
_DEFAULTS = {"count": 1, "spread": None, "spread_is": "", "model_sha256": ""}


def save(path: Path, records: Iterable[Record]) -> None:
    """Write records to a JSON file, whole or not at all. Their kind is not kept: a file is read as recorded ones."""
    contexts: list[dict[str, Any]] = []
    rows = []
    for record in records:
        context = asdict(record.context)
        if context not in contexts:
            contexts.append(context)
        own = {name: getattr(record, name) for name in _FIELDS[:-1]}
        own = {key: value for key, value in own.items() if key not in _DEFAULTS or value != _DEFAULTS[key]}
        rows.append({**own, **record.columns, "context": contexts.index(context)})
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
    head = json.dumps(contexts, indent=1, ensure_ascii=False)
    write_atomically(path, f'{{"contexts": {head},\n"records": [\n{lines}\n]}}\n'.encode())


def load(path: Path, kind: Kind = "recorded") -> list[Record]:
    """Read one JSON file of records. Raises `DataError` if it is none, or a value in it cannot have been measured."""
    try:
        if not path.is_file():
            raise FileNotFoundError("there is no such file")
        content = json.loads(path.read_text(encoding="utf-8"))
        contexts = [_context(row) for row in content["contexts"]]
        return [_record(row, contexts, kind) for row in content["records"]]
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise DataError(f"{path} is not a file of records ({error})") from error


def _context(row: Mapping[str, Any]) -> Context:
    context = Context(**row)
    texts = [context.command, context.device, context.commit, context.date, *context.versions.values()]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a context holds something that is not text")
    return context


def _record(row: Mapping[str, Any], contexts: list[Context], kind: Kind) -> Record:
    """Files come from strangers: a malformed record is rejected here, not inside a rule."""
    own = {**_DEFAULTS, **{key: row[key] for key in _FIELDS if key in row}}
    columns = {key: value for key, value in row.items() if key not in _FIELDS}
    if not all(isinstance(own[key], str) for key in ("quantity", "unit", "spread_is", "model_sha256")):
        raise TypeError(f"a record of {own['quantity']!r} has something that is not text where text belongs")
    if not all(type(value) in (str, int) for value in columns.values()) or type(columns.get("seed", 0)) is not int:
        raise TypeError(f"a column of a record of {own['quantity']} is neither text nor a whole number")
    if type(own["context"]) is not int or not 0 <= own["context"] < len(contexts):
        raise ValueError("a record names a context that is not there")
    if type(own["count"]) is not int or own["count"] < 1:
        raise ValueError(f"its count {own['count']!r} is no number of measurements")
    if own["spread"] is not None:
        low, high = own["spread"]
        if not _is_number(low) or not _is_number(high) or low > high:
            raise ValueError("its spread is not two numbers in order")
        own["spread"] = (float(low), float(high))
    value = own["value"]
    if not _is_number(value) or (own["quantity"] == "latency" and value < 1e-6):
        raise ValueError(f"its {own['quantity']} {str(value)[:40]} cannot have been measured")
    own |= {"value": float(value), "context": contexts[own["context"]]}
    return Record(**own, columns=columns, kind=_kind(columns, kind))


def _kind(columns: Mapping[str, Column], kind: Kind) -> Kind:
    return "estimated" if "compiler" in columns else kind


def _is_number(value: object) -> bool:
    # The range keeps out what no float holds: JSON has whole numbers of any length.
    return type(value) in (int, float) and -1e300 < value < 1e300  # type: ignore[operator]


@functools.cache
def recorded() -> tuple[Record, ...]:
    """All records shipped with the library."""
    folder = Path(str(importlib.resources.files("abpn_lib") / "records"))
    return tuple(record for path in sorted(folder.glob("*.json")) for record in load(path))


def _device() -> str:
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):  # not Linux, or a CPU without a name
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{name}, {os.cpu_count()} logical CPUs, {platform.system()} {platform.machine()}"


_PACKAGES = (
    "abpn-lib", "ai-edge-litert", "numpy", "scikit-image", "tensorflow", "tf_keras", "tensorflow-model-optimization",
)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _commit() -> str:
    """The commit of the checkout this file stands in, with ``+`` after it where the tree has changed; or ''."""
    if os.environ.get("ABPN_COMMIT"):
        return os.environ["ABPN_COMMIT"]
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository, whose commit says nothing about it.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
