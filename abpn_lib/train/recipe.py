"""Recipes: everything that decides a training run, except its images, as data in ``abpn_lib/recipes``, a file each.

A recipe's file names its parent in `base` and gives what differs. Source: sections 3.4, 4.1 and 4.3 of the paper for
`paper` and `qat-paper`; the authors' published code, where it differs, for `authors` and `qat-authors`.
"""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from abpn_lib.files import InputError

_KINDS = {str: "a name", bool: "true or false", tuple: "a list of whole numbers"}
_FOLDER = importlib.resources.files("abpn_lib") / "recipes"


def _of(text: str, default: Any, least: float = 0, most: float = math.inf, among: tuple[str, ...] = ()) -> Any:
    """A field with the text that explains it, on the command line too, and the numbers or names that are possible."""
    return field(default=default, metadata={"help": text, "range": (least, most), "among": among})


@dataclass(frozen=True)
class Recipe:
    """One training run. Values are in [0, 1] throughout; `networks.rescale` moves a trained network to [0, 255]."""

    network: str = _of("the network", "abpn")
    steps: int = _of("training steps", 6_000, 1, 10**9)
    lr: float = _of("greatest learning rate", 1e-3, 1e-12, 1)
    schedule: str = _of("how the learning rate falls", "halving", among=("cosine", "halving"))
    halve_at: tuple[int, ...] = _of("steps at which `halving` halves it", ())
    warmup: int = _of("steps over which a cosine schedule first rises", 0)
    patch: int = _of("LR pixels a side of a patch", 64, 1, 4096)
    batch: int = _of("patches in a batch", 16, 1, 4096)
    init: str = _of("initial weights; run: those of --after", "he", among=("he", "glorot", "identity", "run"))
    revive: bool = _of("give the dead channels of the run gone on from new weights", False)
    noise: float = _of("standard deviation of what `identity` adds to its weights, of He's", 0.1)
    ema_decay: float = _of("decay of the moving average of the weights that is kept; 0 keeps the last", 0.0, 0, 1)
    data: str = _of("the data set", "div2k-train")
    scale: int = _of("how many times to enlarge", 3, 1, 8)
    seed: int = _of("of weights and batches", 0)
    optimizer: str = _of("what moves the weights", "adam", among=("adam", "soap"))
    loss: str = _of("mean absolute or squared error, or its logarithm", "l1", among=("l1", "l2", "log-l2"))
    pairs: int = _of("conv-ReLU pairs", 5, 0, 100)
    bias_lr_factor: float = _of("part of the learning rate that SOAP moves biases with", 1.0)
    first_layer_lr_factor: float = _of("part of the learning rate that SOAP moves the first kernel with", 1.0)
    rescaled_copies: tuple[int, ...] = _of("sizes, in percent, at which every image is shown once more", ())
    photo_pixels: int = _of("pixels from which an image is a photo; smaller ones are shown as copies alone", 0)
    photo_weight: float = _of("how many times as often as its area says a photo is drawn", 1.0)
    ranges: str = _of("QAT: whether activation ranges follow the batches", "tracked", among=("tracked", "fixed"))


def names() -> list[str]:
    """The names of all recipes."""
    return sorted(file.name.removesuffix(".yaml") for file in _FOLDER.iterdir() if file.name.endswith(".yaml"))


def recipe(name: str, **changes: Any) -> Recipe:
    """A named recipe with some fields replaced (None means: keep).

    With another number of steps the halvings keep their place in the whole, and the warm-up takes at most a tenth of
    it. Raises `InputError` if there is no such recipe, its file names a field that is none, or a value is impossible.
    """
    if name not in names():
        raise InputError(f"no recipe is called {name!r}; there are {', '.join(names())}")
    base = from_fields(_read(name), f"recipe {name}")
    changed = asdict(base) | {key: value for key, value in changes.items() if value is not None}
    if (steps := changed["steps"]) != base.steps:
        changed["halve_at"] = tuple(at * steps // base.steps for at in base.halve_at)
        changed["warmup"] = min(changed["warmup"], steps // 10)
    return from_fields(changed, f"recipe {name}")


def from_fields(content: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from its fields as a file has them. Raises `InputError` with `where` if one is none or cannot be so."""
    from abpn_lib import networks

    known = {entry.name: entry for entry in fields(Recipe)}
    if unknown := sorted(content.keys() - known):
        raise InputError(f"{where} has no such field as {', '.join(unknown)}; a recipe has {', '.join(sorted(known))}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    for key, value in values.items():
        among = networks.NETWORKS if key == "network" else known[key].metadata["among"]
        kind, (least, most) = type(known[key].default), known[key].metadata["range"]
        wanted = f"{least:,} to {most:,}" if most < math.inf else f"a finite number of at least {least:,}"
        if kind in (int, float):
            fits = type(value) in (int, kind) and least <= value <= most and math.isfinite(value)
        else:
            fits = type(value) is kind and (not among or value in among)
            wanted = f"one of {', '.join(among)}" if among else _KINDS[kind]
        if not fits or (kind is tuple and not all(type(item) is int for item in value)):
            raise InputError(f"{where}: {key} is {str(value)[:20]}: {wanted} is possible")
    return Recipe(**values)


def options() -> dict[str, dict[str, Any]]:
    """The fields that a command may change, as options of argparse; the others only a recipe's file can give."""
    found = {}
    for entry in fields(Recipe):
        among, kind = entry.metadata["among"], type(entry.default)
        if kind in (int, float, str):
            how = {"choices": among} if among else {"type": kind}
            text = f"{entry.metadata['help']} (default: the recipe's)"
            found[f"--{entry.name.replace('_', '-')}"] = {**how, "help": text}
    return found


def _read(name: str) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    content = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    parent = content.pop("base", None)
    return {**(_read(parent) if parent else {}), **content}
