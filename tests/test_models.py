from __future__ import annotations

from pathlib import Path

import pytest

import abpn_lib.models
from abpn_lib import models
from abpn_lib.files import ModelError, sha256

FOLDER = Path(abpn_lib.models.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.tflite"))


def test_the_catalogue_is_every_shipped_file_by_name() -> None:
    assert [model.name for model in models.catalogue()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_model_has_its_provenance(name: str) -> None:
    model = next(model for model in models.catalogue() if model.name == name)
    for key in ("name", "kind", "sha256", "recipe", "data", "seed", "steps", "device", "versions", "commit", "command"):
        assert key in model.provenance
    assert model.provenance["name"] == name
    assert model.provenance["sha256"] == model.sha256 == sha256(FOLDER / f"{name}.tflite")
    assert model.kind in ("fp32", "int8-ptq", "int8-qat")
    run, _, form = name.partition(f"-{model.kind}")
    assert form in (("-tensor",) if model.provenance["per_channel"] is False else ("", "-folded"))
    assert run in (model.provenance["network"], "abpn-long")
    assert models.find(name) == model.path


def test_no_provenance_stands_without_its_model() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} <= set(NAMES)


@pytest.mark.skipif(not NAMES, reason="no models are in this checkout")
def test_the_default_model_is_shipped() -> None:
    assert models.DEFAULT in NAMES


def test_a_models_own_file_is_found_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.tflite"
    path.write_bytes(b"")
    assert models.find(str(path)) == path


@pytest.mark.parametrize("name", ["", "abpn", "nowhere/mine.tflite", "../models"])
def test_an_unknown_model_is_answered_with_the_known(name: str) -> None:
    with pytest.raises(ModelError, match="neither a file nor a shipped model; there are") as caught:
        models.find(name)
    assert repr(name) in str(caught.value)
    assert ", ".join(NAMES) in str(caught.value)


def test_weights_are_shipped_for_every_float_model() -> None:
    for name in NAMES:
        if name.endswith("-fp32"):
            assert models.weights(name.removesuffix("-fp32")).is_file()
    with pytest.raises(ModelError, match="'edsr'"):
        models.weights("edsr")


@pytest.mark.parametrize(
    ("processor", "name", "why"),
    [
        ("model name : X\nflags\t\t: fpu avx2 avx512_vnni fma\n", models.DEFAULT, "avx512_vnni"),
        ("flags : fpu avx_vnni", models.DEFAULT, "avx_vnni"),
        ("Features : fp asimd asimddp", models.DEFAULT, "asimddp"),
        ("flags\t\t: fpu avx2 fma avx512f\n", "abpn32-fp32", "no 8-bit dot product"),
        ("", models.DEFAULT, "not known"),
    ],
)
def test_the_model_that_suits_a_cpu(processor: str, name: str, why: str) -> None:
    found, said = models.suited(processor)
    assert (found, why in said) == (name, True)
    assert models.find(found).is_file()
    assert models.suited()[0] in (models.DEFAULT, "abpn32-fp32")
