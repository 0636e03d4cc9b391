"""From a finished training run to its .tflite files, each beside the provenance that says how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from abpn_lib import datasets, networks, results
from abpn_lib.files import InputError, sha256, write_atomically
from abpn_lib.int8 import ptq, qat
from abpn_lib.int8.export import export_float, export_int8
from abpn_lib.train import loop, runs
from abpn_lib.train.recipe import recipe

FORMS = ("fp32", "int8-ptq", "int8-ptq-tensor", "int8-ptq-folded", "int8-qat")
"""What can be made of a run; "int8-ptq-tensor" has one scale for each kernel, not for each output channel, and
"int8-ptq-folded" its anchor in the chain (`ptq.fold_anchor`), rounded by GPTQ."""


def make_models(
    run_folder: Path, out: Path, context: results.Context, *, name: str | None = None, network: str | None = None,
    forms: Sequence[str] | None = None, calibrate: str = "train", images: int = 32, equalize: bool = False,
    gptq: bool = False, qat_recipe: str | None = None, qat_fields: Mapping[str, Any] | None = None,
    validate_on: str = "embedded", **options: Any,
) -> list[Path]:
    """Write models of a finished run: ``NAME-FORM.tflite``, and ``NAME.npz`` beside the float one; return the paths.

    `context` is that of the command, for their provenance; files' names begin with `name`, or else the network's.
    `network` may be another one that takes the run's weights: "nearest" those of "abpn", as one function. `forms` are
    of `FORMS` (float32 and PTQ if None, and QAT if there is a recipe for it). The activation ranges come from so many
    `images` of the data set `calibrate`, evenly spaced, as LR. `equalize` stands for cross-layer equalisation and a
    residual in steps of one pixel level before all else, QAT included, `gptq` for GPTQ, after QAT too.

    "int8-qat" is trained by `qat_recipe`, with `qat_fields` replaced, in a folder of its name in `run_folder`, where it
    goes on if it was stopped; the images of `validate_on` are scored at checkpoints ("": none), and `options` are what
    `train_qat` takes.

    Raises `InputError` or `DataError` if the run, a name, the recipe or a data set is not there, before anything is
    written; `ModelError` if the network is not of the kind that a step needs.
    """
    run = runs.read_run(run_folder)
    scale, network = run.recipe.scale, recipe("table2", network=network or run.recipe.network).network
    wanted = forms or ["fp32", "int8-ptq", *(["int8-qat"] if qat_recipe else [])]
    if "int8-qat" in wanted and not qat_recipe:
        raise InputError("int8-qat needs the recipe of its training: --qat")
    name = name or network
    if Path(name).name != name:
        raise InputError(f"{name!r} is not the name of a file: the folder is named by --out")
    tuning = recipe(qat_recipe, network=network, scale=scale, **(qat_fields or {})) if qat_recipe else None
    for data in [] if list(wanted) == ["fp32"] else [calibrate, *([tuning.data] if tuning else [])]:
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
            **run.provenance, **more, "name": path.stem, "kind": "-".join(form.split("-")[:2]), "network": network,
            "scale": scale, "sha256": sha256(path), "exported_by": asdict(context),
        }
        write_atomically(path.with_suffix(".json"), (json.dumps(provenance, indent=1) + "\n").encode())
        made.append(path)

    if "fp32" in wanted:
        runs.save_weights(model, out / f"{name}.npz")
        export_float(model, out / f"{name}-fp32.tflite")
        describe("fp32", per_channel=None)
    if list(wanted) == ["fp32"]:
        return made
    lr_images = datasets.spaced_lr_images(calibrate, images, scale)
    if equalize:
        model = ptq.equalize(model, lr_images)
    ranges = ptq.calibrate(model, lr_images)
    if equalize:
        ranges = ptq.residual_in_levels(model, ranges)
    calibration = {"data": calibrate, "images": images}
    if "int8-ptq" in wanted:
        export_int8(ptq.gptq(model, lr_images) if gptq else model, ranges, out / f"{name}-int8-ptq.tflite")
        describe("int8-ptq", ranges=ranges, calibration=calibration, per_channel=True)
    if "int8-ptq-tensor" in wanted:
        export_int8(model, ranges, out / f"{name}-int8-ptq-tensor.tflite", per_channel=False)
        describe("int8-ptq-tensor", ranges=ranges, calibration=calibration, per_channel=False)
    if "int8-ptq-folded" in wanted:
        folded, reach = ptq.fold_anchor(model, lr_images)
        export_int8(ptq.gptq(folded, lr_images), reach, out / f"{name}-int8-ptq-folded.tflite")
        describe("int8-ptq-folded", ranges=reach, calibration=calibration, per_channel=True)
    if "int8-qat" in wanted and tuning:
        folder = run_folder / (f"{qat_recipe}" if network == run.recipe.network else f"{qat_recipe}-{network}")
        hr_images = (hr for _, hr in datasets.images(tuning.data, scale=scale))
        validation = loop.validation_pairs(validate_on, scale)
        tuned, ranges = qat.train_qat(model, ranges, tuning, hr_images, folder, validation=validation, **options)
        runs.write_provenance(folder, tuning, context, loop.threads())
        export_int8(ptq.gptq(tuned, lr_images) if gptq else tuned, ranges, out / f"{name}-int8-qat.tflite")
        trained = runs.read_run(folder).provenance
        describe("int8-qat", **trained, ranges=ranges, started_from=run.provenance["recipe"], per_channel=True)
    return made
