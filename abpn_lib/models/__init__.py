"""The models shipped with the library: float32 and INT8 .tflite files, each with its provenance.

Beside every ``NAME.tflite`` stands ``NAME.json``: recipe, data, seed, steps, device, versions and
commit that made it. ``RUN.npz`` holds the trained float weights, for tuning further.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abpn_lib.files import ModelError, sha256
from abpn_lib.values import Value

DEFAULT = "abpn32-int8-ptq"
"""The model that `abpn upscale` takes when none is named: ABPN with 32 channels, for the time of ABPN's 28.

ABPN itself, trained as long, is "abpn-long-int8-ptq". The choice is by the mean PSNR of the images of `select`.
"""

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Model:
    """A shipped model: `kind` is "fp32", "int8-ptq" or "int8-qat".

    A name that ends in "-tensor" has one scale for each kernel, not for each output channel; in one that ends in
    "-folded" the image goes through the chain of convolutions, which adds it, in place of an anchor beside it.
    """

    name: str
    path: Path
    kind: str
    sha256: str
    provenance: dict[str, Any]


def catalogue() -> list[Model]:
    """All shipped models, by name.

    Raises `ModelError` if a model's provenance is missing or cannot be read.
    """
    return [_read(path) for path in sorted(_FOLDER.glob("*.tflite"), key=lambda path: path.stem)]


def find(name_or_path: str) -> Path:
    """The path of a shipped model by its name, or of any .tflite file.

    Raises `ModelError` if it is neither.
    """
    shipped = _FOLDER / f"{name_or_path}.tflite"
    if shipped.is_file():
        return shipped
    if Path(name_or_path).is_file():
        return Path(name_or_path)
    names = ", ".join(model.name for model in catalogue())
    raise ModelError(f"{name_or_path!r} is neither a file nor a shipped model; there are {names}")


def suited(processor: str | None = None) -> tuple[str, str]:
    """The model that runs best on this CPU, and why: INT8 where it has an 8-bit dot product, else float32.

    `processor` is what Linux writes of it in ``/proc/cpuinfo``. Where nothing is known of a CPU, INT8 is taken.
    """
    if processor is None:
        path = Path("/proc/cpuinfo")
        processor = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", processor, re.M)
    known = {"avx_vnni", "avx512_vnni", "asimddp"}.intersection(found[1].split()) if found else set()
    if found and not known:
        return f"{DEFAULT.partition('-int8')[0]}-fp32", "this CPU has no 8-bit dot product, so that float32 is faster"
    which = f"this CPU has one ({min(known)})" if known else "this CPU's instructions are not known"
    return DEFAULT, f"INT8 is faster with an 8-bit dot product, and {which}"


def weights(network: str) -> Path:
    """The path of a network's shipped float weights (.npz).

    Raises `ModelError` if none are shipped.
    """
    path = _FOLDER / f"{network}.npz"
    if not path.is_file():
        raise ModelError(f"no weights are shipped for {network!r}")
    return path


def curve(name: str) -> dict[int, Value]:
    """The validation PSNR (dB) by step, from the log that a shipped model's training left in its provenance."""
    log = _read(_FOLDER / f"{name}.tflite").provenance["log"]
    return {int(row["step"]): Value(float(row["val_psnr"]), "dB", "recorded", f"the log of {name}") for row in log}


def _read(path: Path) -> Model:
    try:
        provenance = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return Model(path.stem, path, provenance["kind"], sha256(path), provenance)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{path.with_suffix('.json')} is not the provenance of {path.name} ({error!r})") from error
