"""Other people's weights: read without PyTorch, nothing executed, and each network at the score its authors printed."""

from __future__ import annotations

import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abpn_lib import datasets, measure, metrics, models, networks, results, score
from abpn_lib.files import ModelError
from abpn_lib.tflite import graph
from abpn_lib.timing import latency
from abpn_lib.train import runs
from tools import board, peers

CONTEXT = results.Context.here("pytest")


class Saved:
    """A tensor as PyTorch pickles it: a call that rebuilds it from a numbered storage."""

    def __init__(self, key: str, values: np.ndarray, strides: tuple[int, ...] = ()) -> None:
        self.key, self.values = key, values
        self.strides = strides or tuple(stride // 4 for stride in np.ascontiguousarray(values).strides)

    def __reduce__(self) -> tuple:
        storage = types.SimpleNamespace(key=self.key)
        rebuilt = (storage, 0, self.values.shape, self.strides, False, OrderedDict())
        return sys.modules["torch._utils"]._rebuild_tensor_v2, rebuilt


class Pickler(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        if isinstance(thing, types.SimpleNamespace):
            return ("storage", sys.modules["torch"].FloatStorage, thing.key, "cpu", 0)
        return None


@pytest.fixture(autouse=True)
def _torch_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickling names a function only where it can be imported."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2() -> None: ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def save(path: Path, state: Any) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("archive/data.pkl", "w") as file:
            Pickler(file, 2).dump(state)
        for saved in state.values() if isinstance(state, dict) else ():
            if isinstance(saved, Saved):
                archive.writestr(f"archive/data/{saved.key}", saved.values.astype("<f4").tobytes())
    return path


def torch_state(network: str) -> dict[str, Saved]:
    """A chain's shipped weights, laid out and named as PyTorch has them."""
    model, state = networks.build(network), OrderedDict()
    runs.load_weights(model, models.weights(network))
    layers = networks.chain(model)
    for i, layer in enumerate(layers):
        kernel, bias = layer.get_weights()
        if layer is layers[-1]:  # sub-pixels first here, colours first there
            kernel, bias = (values.reshape(*values.shape[:-1], 9, 3).swapaxes(-1, -2).reshape(values.shape)
                            for values in (kernel, bias))
        state[f"backbone.{2 * i}.weight"] = Saved(str(2 * i), np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
        state[f"backbone.{2 * i}.bias"] = Saved(str(2 * i + 1), bias)
    return state


def test_a_chain_computes_what_its_weights_compute(tmp_path: Path) -> None:
    found = peers.network(peers.read_state(save(tmp_path / "abpn.pth", torch_state("abpn"))))
    ours = networks.build("abpn")
    runs.load_weights(ours, models.weights("abpn"))
    lr = np.random.default_rng(0).random((1, 20, 24, 3), np.float32)
    np.testing.assert_allclose(found(lr), ours(lr), atol=1e-5)


class Command:
    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> tuple:
        return os.system, (self.text,)


def test_no_pickle_is_executed(tmp_path: Path) -> None:
    left = tmp_path / "left-behind"
    path = save(tmp_path / "evil.pth", OrderedDict(weight=Command(f"touch {left}")))
    with pytest.raises(ModelError, match=r"evil\.pth: its pickle asks for posix\.system"):
        peers.read_state(path)
    assert not left.exists()


@pytest.mark.parametrize(("strides", "length"), [((9, 1), 9), ((3, 1), 12)])
def test_a_tensor_must_lie_within_its_numbers(tmp_path: Path, strides: tuple[int, int], length: int) -> None:
    saved = Saved("0", np.zeros((length // 3, 3), np.float32), strides)
    path = save(tmp_path / "x.pth", OrderedDict(weight=saved))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data/0", bytes(36))
    with pytest.raises(ModelError, match="does not lie within its numbers"):
        peers.read_state(path)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**26 + 1))
    with pytest.raises(ModelError, match="more than 64 MiB"):
        peers.read_state(tmp_path / "bomb.pth")


def test_a_file_that_is_none_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(ModelError, match="is not a PyTorch file of tensors"):
        peers.read_state(tmp_path / "text.pth")
    with pytest.raises(ModelError, match="no network known here"):
        peers.network({"a.weight": np.zeros((2, 2), np.float32)})


def test_the_board_counts_what_the_paper_counts() -> None:
    content = latency.fixed_copy(models.find("abpn-int8-ptq"), board.SIZE)
    weights, macs = board.counts(content, "abpn-int8-ptq", CONTEXT)
    assert weights.value == 42539
    # Every kernel at every LR pixel; the biases add, and the frozen anchor's products are in the graph too.
    assert macs.value == pytest.approx((42539 - 194 + 81) * 640 * 360 / 1e9)
    assert graph.operator_names(content).count("CONV_2D") == 8


def test_the_board_measures_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    path = models.find("nearest-int8-ptq")
    first = list(datasets.images("embedded"))[:1]
    monkeypatch.setattr(datasets, "images", lambda *_, **__: iter(first))
    pairs = {"nearest-int8-ptq": (path, path)}
    made = board.scores(pairs, "embedded", CONTEXT, [], with_ssim=False)
    assert {record.subject for record in made} == {"nearest-int8-ptq", "bicubic"}
    again = board.scores(pairs, "embedded", CONTEXT, made[1:], with_ssim=False)
    assert [(record.id, record.value) for record in again] == [(made[0].id, made[0].value)]


# Set5 and Set14, Y less three border pixels: Table 2 of J. Chao et al., "Equivalent Transformation and Dual Stream
# Network Construction for Mobile Image Super-Resolution", CVPR 2023.
PRINTED = {
    "etds-abpn": (33.53, 29.78), "etds-abpn-m6c40": (33.71, 29.92), "ecbsr-m4c32": (33.56, 29.78),
    "etds-s": (33.49, 29.76), "etds-m": (33.65, 29.86),
}


@pytest.mark.slow
@pytest.mark.skipif(not all(map(datasets.available, ("peers", "set5", "set14"))), reason="needs the peers' files")
@pytest.mark.parametrize("name", PRINTED)
def test_a_network_reaches_the_score_that_its_authors_printed(name: str, tmp_path: Path) -> None:
    made = peers.tflite(datasets.peer_models()[name], f"{name}-fp32", tmp_path)
    upscale = {name: score.Stranger(made).upscale}
    for dataset, printed in zip(("set5", "set14"), PRINTED[name], strict=True):
        images = datasets.images(dataset)
        scored = measure.evaluate_all(upscale, images, protocol=metrics.Y_BORDER3, with_ssim=False)
        assert measure.mean_of(scored[name]).psnr == pytest.approx(printed, abs=0.015)
