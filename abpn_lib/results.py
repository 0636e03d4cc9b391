"""The record: one measured value with everything needed to trace it and to measure it again.

Records are plain JSON. Those of long runs are shipped in ``abpn_lib/records`` (kind *recorded*);
those of the run at hand are made by `Context.record` (kind *measured*). A quoted value is never a
record: it stands in `abpn_lib.paper`.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.resources
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from abpn_lib.files import write_atomically

__all__ = ["Context", "Record", "ResultError", "find", "load", "recorded", "save"]

Kind = Literal["measured", "recorded"]


class ResultError(Exception):
    """A record file that cannot be read, or a record that is not there."""


@dataclass(frozen=True)
class Record:
    """One measured value.

    `quantity` is what was measured ("psnr", "ssim", "latency", ...), `subject` of what (a model, a
    meta-node), `conditions` under which ("dataset", "protocol", "threads", "kernels", "size", ...).
    `spread` is an interval (low, high) in the same unit, and `spread_is` says which. `count` is the
    number of images or repeats behind the value.
    """

    quantity: str
    subject: str
    value: float
    unit: str
    command: str
    device: str
    versions: Mapping[str, str]
    commit: str
    date: str
    conditions: Mapping[str, str] = field(default_factory=dict)
    count: int = 1
    spread: tuple[float, float] | None = None
    spread_is: str = ""
    model_sha256: str = ""
    seed: int | None = None
    kind: Kind = "recorded"

    @property
    def id(self) -> str:
        """What is measured, in one line: two records of one id measure the same quantity."""
        conditions = ",".join(f"{key}={self.conditions[key]}" for key in sorted(self.conditions))
        return f"{self.quantity}/{self.subject}" + (f"[{conditions}]" if conditions else "")


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

    def record(self, quantity: str, subject: str, value: float, unit: str, **rest: Any) -> Record:
        """A freshly measured value; `rest` are further fields of `Record`."""
        return Record(
            quantity, subject, float(value), unit, self.command, self.device, self.versions, self.commit, self.date,
            **{"kind": "measured", **rest},
        )


def save(path: Path, records: Iterable[Record]) -> None:
    """Write records to a JSON file, whole or not at all."""
    rows = [{key: value for key, value in asdict(record).items() if key != "kind"} for record in records]
    write_atomically(path, (json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode())


def load(path: Path, kind: Kind = "recorded") -> list[Record]:
    """Read one JSON file of records.

    Raises
    ------
    ResultError
        If it is not such a file.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [_from_row(row, kind) for row in rows]
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ResultError(f"{path} is not a file of records ({error})") from error


def _from_row(row: Mapping[str, Any], kind: Kind) -> Record:
    spread = tuple(row["spread"]) if row.get("spread") else None
    record = Record(**{**row, "value": float(row["value"]), "spread": spread, "kind": kind})
    _demand_sound(record)
    return record


_TEXTS = ("quantity", "subject", "unit", "command", "device", "commit", "date", "spread_is", "model_sha256")


def _demand_sound(record: Record) -> None:
    # A file may come from another device, by way of anybody's hands: what is wrong shall show here, not in a rule.
    for name in _TEXTS:
        if not isinstance(getattr(record, name), str):
            raise TypeError(f"its {name} is not text")
    for name in ("conditions", "versions"):
        entries = getattr(record, name)
        if not isinstance(entries, Mapping) or not all(isinstance(text, str) for text in entries.values()):
            raise TypeError(f"its {name} are not names with texts")
    if math.isnan(record.value) or type(record.count) is not int or record.count < 1:
        raise ValueError(f"its value {record.value} or its count {record.count!r} is no measurement")
    if record.spread and (len(record.spread) != 2 or not all(isinstance(end, (int, float)) for end in record.spread)):
        raise ValueError("its spread is not two numbers")


def recorded() -> list[Record]:
    """All records shipped with the library."""
    folder = Path(str(importlib.resources.files("abpn_lib") / "records"))
    return [record for path in sorted(folder.glob("*.json")) for record in load(path)]


def find(records: Iterable[Record], quantity: str, subject: str, **conditions: str) -> Record:
    """The one record of a quantity under the conditions named; a freshly measured one comes first.

    Raises
    ------
    ResultError
        If there is none.
    """
    hits = [
        record for record in records
        if (record.quantity, record.subject) == (quantity, subject)
        and all(record.conditions.get(key) == value for key, value in conditions.items())
    ]
    if not hits:
        raise ResultError(f"no record of {quantity}/{subject} with {conditions}")
    return next((record for record in hits if record.kind == "measured"), hits[0])


def _device() -> str:
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a CPU without a name
    return f"{name}, {os.cpu_count()} logical CPUs, {platform.system()} {platform.machine()}"


_PACKAGES = (
    "abpn-lib", "ai-edge-litert", "numpy", "scikit-image", "tensorflow", "tf_keras", "tensorflow-model-optimization",
)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
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
