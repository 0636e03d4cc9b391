"""Training: real tiny runs on the embedded images, one of them killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from abpn_lib import networks, results
from abpn_lib.degradation import bicubic_down
from abpn_lib.train import training


@pytest.fixture(scope="module")
def cat() -> np.ndarray:
    return skimage.data.chelsea()[:300, :450]


TINY = training.recipe("table2", data="embedded", steps=12, batch=2, patch=16)
COMMAND = [
    sys.executable,
    "-m",
    "abpn_lib.cli",
    "train",
    "--data",
    "embedded",
    "--steps",
    "40",
    "--batch",
    "2",
    "--patch",
    "16",
    "--save-every",
    "5",
    "--quiet",
    "--no-validation",
    "--out",
]


def test_recipes_are_the_papers() -> None:
    paper = training.RECIPES["paper"]
    assert (paper.steps, paper.rate, paper.batch, paper.patch, paper.start) == (1_000_000, 1e-3, 16, 64, "he")
    assert paper.halve_at == (200_000, 400_000, 600_000, 800_000)
    authors = training.RECIPES["authors"]
    assert (authors.steps, authors.start) == (600_000, "glorot")
    assert training.RECIPES["qat-paper"].rate == 1e-4


def test_rate_halves_where_the_recipe_says() -> None:
    optimizer = training._optimizer(training.RECIPES["paper"])
    rates = [float(optimizer._learning_rate(step)) for step in (0, 200_001, 400_001, 900_000)]
    assert rates == pytest.approx([1e-3, 5e-4, 2.5e-4, 6.25e-5])


@pytest.mark.parametrize(
    ("name", "changes", "word"),
    [
        ("nonsense", {}, "nonsense"),
        ("table2", {"network": "resnet"}, "resnet"),
        ("table2", {"steps": 0}, "steps"),
        ("table2", {"seed": -1}, "seed"),
        ("table2", {"rate": 0.0}, "rate"),
    ],
)
def test_bad_recipes_are_named(name: str, changes: dict, word: str) -> None:
    with pytest.raises(training.InputError, match=word):
        training.recipe(name, **changes)


def test_batches_are_aligned_and_depend_on_seed_and_step_alone(cat: np.ndarray) -> None:
    patches = training.Patches([cat], 3, 16)
    lr, hr = training.batch_at(patches, 4, seed=1, step=7)
    again, _ = training.batch_at(patches, 4, seed=1, step=7)
    other, _ = training.batch_at(patches, 4, seed=1, step=8)
    assert lr.shape == (4, 16, 16, 3)
    assert hr.shape == (4, 48, 48, 3)
    assert lr.min() >= 0
    assert lr.max() <= 1
    np.testing.assert_array_equal(lr, again)
    assert not np.array_equal(lr, other)
    # An LR patch is its HR patch shrunk, away from the patch's border: flips and turns went the same way.
    for small, large in zip(lr, hr, strict=True):
        shrunk = bicubic_down(large, 3)
        assert np.abs(shrunk - small)[4:-4, 4:-4].max() < 0.02


def test_flips_and_rotations_all_occur() -> None:
    ramp = np.tile(np.arange(48, dtype=np.uint8)[:, None, None] * 5, (1, 48, 3))
    patches = training.Patches([ramp], 3, 16)
    seen = {
        tuple(np.sign([lr[-1, 0, 0] - lr[0, 0, 0], lr[0, -1, 0] - lr[0, 0, 0]]).tolist())
        for step in range(20)
        for lr in training.batch_at(patches, 4, 0, step)[0]
    }
    assert seen == {(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)}


def test_images_smaller_than_a_patch_are_refused() -> None:
    with pytest.raises(training.InputError, match="48 pixels"):
        training.Patches([np.zeros((30, 30, 3), np.uint8)], 3, 16)


def test_training_lowers_the_loss_and_writes_what_it_says(tmp_path: Path, cat: np.ndarray) -> None:
    recipe = training.recipe(
        "table2", data="embedded", steps=40, batch=4, patch=16, start="he", average=0.0, optimizer="adam", rate=1e-3
    )
    model = training.train(
        recipe, [cat], tmp_path, validation=[(bicubic_down(cat, 3), cat)], save_every=10, progress=False
    )
    log = list(training.read_log(tmp_path))
    assert [row["step"] for row in log] == [10, 20, 30, 40]
    assert log[-1]["loss"] < log[0]["loss"]
    fresh = networks.build("abpn")
    training.load_weights(fresh, tmp_path / "weights.npz")
    np.testing.assert_array_equal(fresh.get_weights()[0], model.get_weights()[0])
    with pytest.raises(training.InputError, match="fsrcnn"):
        training.load_weights(networks.build("fsrcnn"), tmp_path / "weights.npz")


def test_a_killed_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    subprocess.run([*COMMAND, str(unbroken)], check=True, capture_output=True)
    process = subprocess.Popen([*COMMAND, str(broken)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (broken / "log.csv").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "weights.npz").exists(), "the run ended before it could be killed: give it more steps"
    stopped_at = list(training.read_log(broken))[-1]["step"]
    assert 0 < stopped_at < 40
    subprocess.run([*COMMAND, str(broken)], check=True, capture_output=True)
    assert (broken / "weights.npz").read_bytes() == (unbroken / "weights.npz").read_bytes()
    rows = [[(row["step"], row["loss"]) for row in training.read_log(folder)] for folder in (unbroken, broken)]
    assert rows[0] == rows[1]


def test_a_folder_of_another_run_is_left_alone(tmp_path: Path, cat: np.ndarray) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(training.InputError, match="another recipe"):
        training.train(TINY, [cat], tmp_path, progress=False)
    assert (tmp_path / "recipe.json").read_text() == "{}"


def test_a_broken_checkpoint_is_named(tmp_path: Path, cat: np.ndarray) -> None:
    training.train(TINY, [cat], tmp_path, progress=False)
    (tmp_path / "checkpoint.npz").write_bytes(b"not a checkpoint")
    with pytest.raises(training.InputError, match=r"checkpoint\.npz"):
        training.train(TINY, [cat], tmp_path, progress=False)


# Logical devices must be made before TensorFlow starts, hence a process of its own.
DISTRIBUTED = """
import sys
from pathlib import Path
import numpy as np, skimage.data, tensorflow as tf
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from abpn_lib.train import training
out, cat = Path(sys.argv[1]), skimage.data.chelsea()[:300, :450]

def run(name, optimizer, strategy=None, **options):
    recipe = training.recipe("ablation", data="embedded", steps=4, batch=4, patch=16, optimizer=optimizer)
    return training.train(
        recipe, [cat], out / name, progress=False, save_every=2, strategy=strategy, **options
    ).get_weights()

def stop(loss, seen=[]):
    seen.append(loss)
    if len(seen) == 3:
        raise KeyboardInterrupt

two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert two.num_replicas_in_sync == 2
one_adam, two_adam = run("one-adam", "adam"), run("two-adam", "adam", two)
for a, b in zip(one_adam, two_adam, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
# SOAP's first basis comes from matrices that lack rank, which magnifies rounding: its loss is compared instead.
run("one-soap", "soap"), run("two-soap", "soap", two)
losses = [[row["loss"] for row in training.read_log(out / name)] for name in ("one-soap", "two-soap")]
np.testing.assert_allclose(*losses, rtol=0.05)
# Stopped after its first checkpoint, a run on two devices goes on with the same bits.
for optimizer in ("adam", "soap"):
    try:
        run(f"broken-{optimizer}", optimizer, two, each_step=stop)
    except KeyboardInterrupt:
        pass
    stop.__defaults__[0].clear()
    run(f"broken-{optimizer}", optimizer, two)
    broken, whole = ((out / f"{name}-{optimizer}" / "weights.npz").read_bytes() for name in ("broken", "two"))
    assert broken == whole, optimizer
try:
    training.train(training.recipe("ablation", steps=1, batch=3, patch=16), [cat], out / "odd", strategy=two)
except training.InputError as error:
    assert "2 devices" in str(error)
else:
    raise AssertionError("three patches were shared by two devices")
"""


def test_two_devices_share_a_batch_and_find_the_weights_of_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DISTRIBUTED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_few_steps_of_the_papers_recipe(tmp_path: Path) -> None:
    words = ["--recipe", "paper", "--data", "embedded", "--steps", "3", "--batch", "2", "--quiet", "--no-validation"]
    command = [sys.executable, "-m", "abpn_lib.cli", "train", *words, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    finished = training.read_run(tmp_path)
    assert (finished.recipe.patch, finished.recipe.optimizer, finished.recipe.start) == (64, "adam", "he")
    assert [row["step"] for row in training.read_log(tmp_path)] == [3]
    training.load_weights(networks.build("abpn"), tmp_path / "weights.npz")


def test_a_run_goes_on_from_another_and_says_so(tmp_path: Path, cat: np.ndarray) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    tiny = ["--data", "embedded", "--steps", "4", "--batch", "2", "--patch", "16", "--quiet", "--no-validation"]
    command = [sys.executable, "-m", "abpn_lib.cli", "train", *tiny]
    subprocess.run([*command, "--out", str(first)], check=True, capture_output=True)
    after = ["--recipe", "longer", "--after", str(first), "--out", str(second)]
    subprocess.run([*command, *after], check=True, capture_output=True)
    finished = training.read_run(second)
    assert (finished.recipe.start, finished.recipe.copies, finished.recipe.bias_rate) == ("run", (70, 50), 0.1)
    assert finished.provenance["started_from"]["recipe"]["network"] == "abpn"
    assert len(finished.provenance["started_from"]["weights_sha256"]) == 64
    start = training.build_after(first, finished.recipe, [bicubic_down(cat, 3)])
    np.testing.assert_array_equal(start.get_layer("transition").get_weights()[1], _weights(first)["transition/bias:0"])


def test_runs_from_one_start_are_averaged_and_say_of_what(tmp_path: Path) -> None:
    tiny = ["--data", "embedded", "--steps", "2", "--batch", "2", "--patch", "16", "--quiet", "--no-validation"]
    command = [sys.executable, "-m", "abpn_lib.cli"]

    def train(name: str, *more: str) -> str:
        folder = str(tmp_path / name)
        subprocess.run([*command, "train", *tiny, *more, "--out", folder], check=True, capture_output=True)
        return folder

    first = train("first")
    runs = [train(f"tuned{seed}", "--recipe", "tuned", "--after", first, "--seed", str(seed)) for seed in (3, 4)]
    subprocess.run([*command, "average", *runs, "--out", str(tmp_path / "mean")], check=True, capture_output=True)
    one, other, mean = (_weights(Path(folder)) for folder in (*runs, tmp_path / "mean"))
    assert (one["dfe1/kernel:0"] != other["dfe1/kernel:0"]).any()
    np.testing.assert_allclose(mean["dfe1/kernel:0"], (one["dfe1/kernel:0"] + other["dfe1/kernel:0"]) / 2, rtol=1e-6)
    half = [*command, "average", first, runs[0], "--out", str(tmp_path / "half")]
    subprocess.run(half, check=True, capture_output=True)
    train("unrelated", "--seed", "1")
    made = training.read_run(tmp_path / "mean").provenance
    assert [part["seed"] for part in made["average_of"]] == [3, 4]
    assert made["command"].startswith("abpn average")
    for wrong, out in ((["tuned3"], "x"), (["unrelated", "tuned3"], "x"), (["tuned3", "tuned4"], "mean")):
        refused = subprocess.run(
            [*command, "average", *(str(tmp_path / name) for name in wrong), "--out", str(tmp_path / out)],
            capture_output=True, text=True, check=False,
        )
        assert refused.returncode == 2
        assert len(refused.stderr.strip().splitlines()[-1]) > 20
        assert not (tmp_path / "x").exists()


def _weights(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "weights.npz") as saved:
        return dict(saved)


def test_a_start_that_does_not_fit_is_refused(tmp_path: Path, cat: np.ndarray) -> None:
    with pytest.raises(training.InputError, match="--after"):
        training.build_start(training.recipe("longer"))
    with pytest.raises(training.InputError, match="no finished run"):
        training.build_after(tmp_path, training.recipe("longer"), [cat])
    training.train(TINY, [cat], tmp_path, progress=False)
    training.write_provenance(tmp_path, TINY, results.Context("c", "d", {}, "e", "f"), 1)
    with pytest.raises(training.InputError, match="network abpn, the recipe fsrl"):
        training.build_after(tmp_path, training.recipe("longer", network="fsrl"), [cat])


def test_copies_are_the_images_at_other_sizes(cat: np.ndarray) -> None:
    shown = list(training.with_copies([cat], replace(TINY, copies=(70, 50))))
    assert [image.shape for image, _ in shown] == [(300, 450, 3), (210, 315, 3), (150, 225, 3)]
    assert {weight for _, weight in shown} == {1.0}
    np.testing.assert_array_equal(shown[0][0], cat)


def test_small_images_are_shown_as_copies_alone_and_less_often(cat: np.ndarray) -> None:
    small = cat[:150, :150]
    shown = list(training.with_copies([small, cat], replace(TINY, copies=(50,), large=100_000, large_weight=4.0)))
    assert [(image.shape[0], weight) for image, weight in shown] == [(75, 1.0), (300, 4.0), (150, 4.0)]
    patches = training.Patches([small, cat[:, :150]], 3, 16, weights=[1.0, 4.0])
    np.testing.assert_allclose(patches.chance, [1 / 9, 8 / 9])


def test_dead_channels_of_a_run_are_counted(tmp_path: Path, cat: np.ndarray) -> None:
    training.train(TINY, [cat], tmp_path, progress=False)
    training.write_provenance(tmp_path, TINY, results.Context("c", "d", {}, "e", "f"), 1)
    model = networks.build("abpn")
    training.load_weights(model, tmp_path / "weights.npz")
    lr = bicubic_down(cat, 3)
    (before,) = training.dead_channels(tmp_path, [lr])
    model.get_layer("dfe3").bias.assign(np.full(28, -1e3, np.float32))
    training.save_weights(model, tmp_path / "weights.npz")
    (after,) = training.dead_channels(tmp_path, [lr])
    assert after.conditions["layers"].split()[3] == "28"
    assert after.value > before.value
