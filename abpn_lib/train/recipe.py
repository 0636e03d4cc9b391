"""Recipes: everything that decides a training run, except its images, as data in ``abpn_lib/recipes``, a file each.

A recipe's file names its parent in `base` and gives what differs. Source: sections 3.4, 4.1 and 4.3 of the paper for
`paper` and `qat-paper`; the authors' published code, where it differs, for `authors` and `qat-authors`.
"""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from abpn_lib.files import InputError

_FOLDER = importlib.resources.files("abpn_lib") / "recipes"


def _of(text: str, default: Any, least: float = 0, most: float = math.inf) -> Any:
    """A field with the text that explains it, on the command line too, and the range of a number that is possible."""
    return field(default=default, metadata={"help": text, "range": (least, most)})


@dataclass(frozen=True)
class Recipe:
    """One training run. Values are in [0, 1] throughout; `networks.rescale` moves a trained network to [0, 255]."""

    network: str = _of("the network", "abpn")
    steps: int = _of("training steps", 6_000, 1, 10**9)
    lr: float = _of("greatest learning rate", 1e-3, 1e-12, 1)
    schedule: Literal["cosine", "halving"] = _of("how the learning rate falls", "halving")
    halve_at: tuple[int, ...] = _of("steps at which `halving` halves it", ())
    warmup: int = _of("steps over which a cosine schedule first rises", 0)
    patch: int = _of("LR pixels a side of a patch", 64, 1, 4096)
    batch: int = _of("patches in a batch", 16, 1, 4096)
    init: Literal["he", "glorot", "identity", "run"] = _of("initial weights; run: those of --after", "he")
    revive: bool = _of("give the dead channels of the run gone on from new weights", False)
    noise: float = _of("standard deviation of what `identity` adds to its weights, of He's", 0.1)
    ema_decay: float = _of("decay of the moving average of the weights that is kept; 0 keeps the last", 0.0, 0, 1)
    data: str = _of("the data set", "div2k-train")
    scale: int = _of("how many times to enlarge", 3, 1, 8)
    seed: int = _of("of weights and batches", 0)
    optimizer: Literal["adam", "soap"] = _of("what moves the weights", "adam")
    loss: Literal["l1", "l2"] = _of("mean absolute or mean squared error", "l1")
    pairs: int = _of("conv-ReLU pairs", 5, 0, 100)
    bias_lr_factor: float = _of("part of the learning rate that SOAP moves biases with", 1.0)
    first_layer_lr_factor: float = _of("part of the learning rate that SOAP moves the first kernel with", 1.0)
    rescaled_copies: tuple[int, ...] = _of("sizes, in percent, at which every image is shown once more", ())
    photo_pixels: int = _of("pixels from which an image is a photo; smaller ones are shown as copies alone", 0)
    photo_weight: float = _of("how many times as often as its area says a photo is drawn", 1.0)
    ranges: Literal["tracked", "fixed"] = _of("QAT: whether activation ranges follow the batches or stay", "tracked")


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
    changed = replace(base, **{key: value for key, value in changes.items() if value is not None})
    if changed.steps != base.steps:
        halve_at = tuple(at * changed.steps // base.steps for at in base.halve_at)
        changed = replace(changed, halve_at=halve_at, warmup=min(changed.warmup, changed.steps // 10))
    _demand_possible(changed)
    return changed


def from_fields(content: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from its fields as a file has them. Raises `InputError` with `where` if one is none or cannot be so."""
    types = get_type_hints(Recipe)
    if unknown := sorted(content.keys() - types.keys()):
        raise InputError(f"{where} has no such field as {', '.join(unknown)}; a recipe has {', '.join(sorted(types))}")
    for key, value in content.items():
        if not _fits(value, types[key]):
            raise InputError(f"{where}: {key} is {value!r}, which it cannot be")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    return Recipe(**values)


def options() -> dict[str, dict[str, Any]]:
    """The fields that a command may change, as options of argparse; the others only a recipe's file can give."""
    types, found = get_type_hints(Recipe), {}
    for entry in fields(Recipe):
        choices, wanted = _choices(types[entry.name]), types[entry.name]
        if choices or wanted in (int, float, str):
            how = {"choices": choices} if choices else {"type": wanted}
            text = f"{entry.metadata['help']} (default: the recipe's)"
            found[f"--{entry.name.replace('_', '-')}"] = {**how, "help": text}
    return found


def _read(name: str) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    content = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    parent = content.pop("base", None)
    return {**(_read(parent) if parent else {}), **content}


def _choices(kind: Any) -> list[str]:
    return [choice for choice in get_args(kind) if isinstance(choice, str)]


def _fits(value: Any, wanted: Any) -> bool:
    if get_origin(wanted) is tuple:
        return isinstance(value, (list, tuple)) and all(type(item) is int for item in value)
    if choices := _choices(wanted):
        return value in choices
    return type(value) is wanted or (wanted is float and type(value) is int)


def _demand_possible(made: Recipe) -> None:
    from abpn_lib import networks

    if made.network not in networks.NETWORKS:
        raise InputError(f"no network is called {made.network!r}; there are {', '.join(networks.NETWORKS)}")
    for entry in fields(made):
        value, (least, most) = getattr(made, entry.name), entry.metadata["range"]
        if isinstance(value, (int, float)) and not (least <= value <= most and math.isfinite(value)):
            wanted = f"{least:,} to {most:,}" if most < math.inf else f"a finite number of at least {least:,}"
            raise InputError(f"{entry.name} is {str(value)[:20]}: {wanted} is possible")
