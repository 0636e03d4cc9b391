"""From a finished training run to its .tflite files, each beside the provenance that says how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from abpn_lib import datasets, networks, results
from abpn_lib.files import InputError, sha256, write_atomically
from abpn_lib.int8 import ptq, qat
from abpn_lib.int8.export import export_float, export_int8
from abpn_lib.train import loop, runs
from abpn_lib.train.recipe import recipe as recipe_of

__all__ = ["make_models"]


def make_models(
    run_folder: Path,
    out: Path,
    context: results.Context,
    *,
    name: str | None = None,
    network: str | None = None,
    calibrate: str = "train",
    images: int = 32,
    float_only: bool = False,
    per_tensor: bool = False,
    equalize: bool = False,
    gptq: bool = False,
    qat_recipe: str | None = None,
    qat_fields: Mapping[str, Any] | None = None,
    validate_on: str = "embedded",
    save_every: int = 500,
    progress: bool = True,
) -> list[Path]:
    """Write the models of a finished run: ``NAME-fp32.tflite``, ``NAME.npz``, ``NAME-int8-ptq.tflite``, and others.

    Parameters
    ----------
    context
        Of the command that makes them, for their provenance.
    name
        What the files' names begin with; the network's name if None.
    network
        A network that takes the run's weights: "nearest" those of "abpn", as one function.
    calibrate, images
        The data set whose LR images give the activation ranges, and how many of them, evenly spaced.
    float_only, per_tensor
        No INT8 at all; or also ``NAME-int8-ptq-tensor``, with one scale for each kernel.
    equalize, gptq
        Cross-layer equalisation before all else, QAT included; GPTQ for ``NAME-int8-ptq``.
    qat_recipe, qat_fields
        Also train ``NAME-int8-qat`` by this recipe with these fields replaced (None keeps), in a folder of the recipe's
        name in `run_folder`, where it goes on if it was stopped.
    validate_on, save_every, progress
        Of QAT, as in `loop.run`.

    Raises
    ------
    InputError, DataError
        If the run, a name, the recipe or a data set is not there; before anything is written.
    ModelError
        If the network is not of the kind that a step needs.
    """
    run = runs.read_run(run_folder)
    scale, network = run.recipe.scale, recipe_of("table2", network=network or run.recipe.network).network
    name = name or network
    if Path(name).name != name:
        raise InputError(f"{name!r} is not the name of a file: the folder is named by --out")
    recipe = recipe_of(qat_recipe, network=network, scale=scale, **(qat_fields or {})) if qat_recipe else None
    needed = [] if float_only else [calibrate, *([recipe.data, validate_on] if recipe else [])]
    for data in filter(None, needed):
        datasets.require(data)
    model = networks.build(network, scale, pairs=run.recipe.pairs)
    runs.load_weights(model, run_folder / "weights.npz")
    if network == "abpn-batchnorm":
        model = networks.fold(model)
    out.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []

    def describe(form: str, **more: Any) -> None:
        path = out / f"{name}-{form}.tflite"
        provenance = {
            **run.provenance, **more, "name": path.stem, "kind": form.removesuffix("-tensor"), "network": network,
            "scale": scale, "sha256": sha256(path), "exported_by": asdict(context),
        }
        write_atomically(path.with_suffix(".json"), (json.dumps(provenance, indent=1) + "\n").encode())
        made.append(path)

    runs.save_weights(model, out / f"{name}.npz")
    export_float(model, out / f"{name}-fp32.tflite")
    describe("fp32", per_channel=None)
    if float_only:
        return made
    lr_images = datasets.spaced_lr_images(calibrate, images, scale)
    if equalize:
        model = ptq.equalize(model, lr_images)
    ranges = ptq.calibrate(model, lr_images)
    calibration = {"data": calibrate, "images": images}
    export_int8(ptq.gptq(model, lr_images) if gptq else model, ranges, out / f"{name}-int8-ptq.tflite")
    describe("int8-ptq", ranges=ranges, calibration=calibration, per_channel=True)
    if per_tensor:
        export_int8(model, ranges, out / f"{name}-int8-ptq-tensor.tflite", per_channel=False)
        describe("int8-ptq-tensor", ranges=ranges, calibration=calibration, per_channel=False)
    if recipe:
        folder = run_folder / (f"{qat_recipe}" if network == run.recipe.network else f"{qat_recipe}-{network}")
        hr_images = (hr for _, hr in datasets.images(recipe.data, scale=scale))
        validation = loop.validation_pairs(validate_on, scale) if validate_on else None
        tuned, ranges = qat.train_qat(
            model, ranges, recipe, hr_images, folder, validation=validation, save_every=save_every, progress=progress
        )
        runs.write_provenance(folder, recipe, context, loop.threads())
        export_int8(tuned, ranges, out / f"{name}-int8-qat.tflite")
        trained = runs.read_run(folder).provenance
        describe("int8-qat", **trained, ranges=ranges, started_from=run.provenance["recipe"], per_channel=True)
    return made
