"""A run's folder: its weights, its log, its provenance, and the mean of several."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import tf_keras as keras
from numpy.typing import NDArray

from abpn_lib import datasets, results
from abpn_lib.files import DataError, InputError, sha256, write_atomically
from abpn_lib.train.recipe import Recipe, from_fields

_CONTEXT = tuple(field.name for field in fields(results.Context))


@dataclass(frozen=True)
class Run:
    """A finished run: its recipe, and the provenance that its models carry."""

    recipe: Recipe
    provenance: dict[str, Any]


@contextlib.contextmanager
def reading(what: str, remedy: str = "") -> Iterator[None]:
    """What reading a file that was cut off, changed or written by something else raises becomes a `DataError`."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, BadZipFile, InputError) as error:
        raise DataError(f"{what} ({error}){remedy}") from error


def load_npz(path: Path) -> dict[str, NDArray]:
    """The arrays of an .npz file (no pickles), by name."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
        return dict(saved)


def save_weights(model: keras.Model, path: Path) -> None:
    """Write a network's weights, by name, to an .npz file (no pickles), whole or not at all."""
    save_npz(path, {weight.name: weight.numpy() for weight in model.weights})


def load_weights(model: keras.Model, path: Path) -> None:
    """Read weights written by `save_weights` into a network of the same shape, in place.

    Raises `DataError` if the file is not one of this network's, or holds a number that is not finite.
    """
    with reading(f"{path} does not hold the weights of {model.name}"):
        saved = load_npz(path)
        arrays = [saved[weight.name] for weight in model.weights]
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError("a weight is not finite")
        for weight, array in zip(model.weights, arrays, strict=True):
            weight.assign(array)


def save_npz(path: Path, arrays: dict[str, NDArray]) -> None:
    """Write arrays by name to an .npz file, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def write_provenance(
    folder: Path, recipe: Recipe, context: results.Context, threads: int, *, after: Path | None = None
) -> None:
    """Write ``provenance.json``: recipe, data, time, device, versions, commit, command and log of a finished run.

    `after` is the folder of the run that it went on from.
    """
    log = list(read_log(folder))
    provenance = {
        "recipe": asdict(recipe), "data": {"name": recipe.data, "registry_sha256": datasets.fingerprint(recipe.data)},
        "seed": recipe.seed, "steps": recipe.steps, "wall_seconds": log[-1]["seconds"], "threads": threads,
        **asdict(context), "log": log,
    }
    if after:
        provenance["started_from"] = {**read_run(after).provenance, "weights_sha256": sha256(after / "weights.npz")}
    _write(folder, provenance)


def _write(folder: Path, provenance: Mapping[str, Any]) -> None:
    write_atomically(folder / "provenance.json", (json.dumps(provenance, indent=1) + "\n").encode())


def read_run(folder: Path) -> Run:
    """Read a run that `write_provenance` described. Raises `DataError` if the folder holds no finished run."""
    with reading(f"{folder} holds no finished run", f": run `abpn train --out {folder}` to its end"):
        provenance = json.loads((folder / "provenance.json").read_text())
        made = from_fields(provenance["recipe"], str(folder / "provenance.json"))
        if missing := [key for key in (*_CONTEXT, "seed", "log", "wall_seconds") if key not in provenance]:
            raise ValueError(f"its provenance lacks {missing[0]}")
        return Run(made, provenance)


def read_log(folder: Path) -> Iterator[dict[str, float]]:
    """The rows of a run's ``log.csv``, as numbers; columns that were not measured are left out."""
    path = folder / "log.csv"
    with reading(f"{path} is not the log of a run"), path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if not (row.get("step") and row.get("seconds")):
                raise ValueError("a row has no step or no time")
            yield {key: float(value) for key, value in row.items() if value}


def average(folders: Sequence[Path], out: Path, context: results.Context) -> None:
    """Make the mean of several finished runs' weights a run of its own, in `out`, beside its ``provenance.json``.

    The runs must have gone on from one and the same run, which may be among them: only then do their weights lie in
    one valley of the loss, and the mean is often better than each (M. Wortsman et al., "Model soups", ICML 2022). Its
    provenance is the first one's, and names every part. Raises `DataError` if a folder holds no finished run,
    `InputError` if the runs did not go on from one, or if `out` holds a run already.
    """
    runs = [read_run(folder) for folder in folders]
    ends = [sha256(folder / "weights.npz") for folder in folders]
    starts = [run.provenance.get("started_from", {}).get("weights_sha256") for run in runs]
    related = (all(origin in both for both in zip(starts, ends, strict=True)) for origin in starts if origin)
    if len(set(ends)) < 2 or not any(related):
        raise InputError("only runs that went on from one can be averaged, two or more: abpn train --after RUN")
    if (out / "provenance.json").exists():
        raise InputError(f"{out} holds a run: name another folder, or delete it")
    parts = []
    for folder in folders:
        with reading(f"{folder / 'weights.npz'} does not hold weights"):
            parts.append(load_npz(folder / "weights.npz"))
    if any(part.keys() != parts[0].keys() for part in parts):
        raise InputError("the runs are of different networks: their weights have no mean")
    out.mkdir(parents=True, exist_ok=True)
    save_npz(out / "weights.npz", {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0]})
    of = [
        {**{key: value for key, value in run.provenance.items() if key != "started_from"}, "weights_sha256": end}
        for run, end in zip(runs, ends, strict=True)
    ]
    seconds = sum(run.provenance["wall_seconds"] for run in runs)
    _write(out, {**runs[0].provenance, **asdict(context), "wall_seconds": seconds, "log": [], "average_of": of})
