"""Training: real tiny runs on the embedded images, one of them killed."""

from __future__ import annotations

import functools
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import tensorflow as tf

from abpn_lib import cli, networks
from abpn_lib.degradation import bicubic_down
from abpn_lib.files import DataError, InputError
from abpn_lib.train import batches, loop, runs
from abpn_lib.train.recipe import Recipe, from_fields, names, recipe
from tools import curves


@pytest.fixture(scope="module")
def cat() -> np.ndarray:
    return skimage.data.chelsea()[:300, :450]


TINY = recipe("table2", data="embedded", steps=12, batch=2, patch=16)
WORDS = ["--data", "embedded", "--batch", "2", "--patch", "16", "--quiet", "--no-validation"]
COMMAND = [sys.executable, "-m", "abpn_lib.cli", "train", *WORDS, "--steps", "40", "--save-every", "5", "--out"]


def abpn(*words: object) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run, for those that go on from one."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert abpn("train", *WORDS, "--steps", 4, "--out", folder) == 0
    return folder


@pytest.fixture
def copy(first: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "copy"))


def test_recipes_are_the_papers() -> None:
    paper = recipe("paper")
    assert (paper.steps, paper.lr, paper.batch, paper.patch, paper.init) == (1_000_000, 1e-3, 16, 64, "he")
    assert paper.halve_at == (200_000, 400_000, 600_000, 800_000)
    authors = recipe("authors")
    assert (authors.steps, authors.init) == (600_000, "glorot")
    assert recipe("qat-paper").lr == 1e-4


def test_every_recipe_can_be_read_and_says_what_it_is() -> None:
    folder = Path(cli.__file__).parent / "recipes"
    for name in names():
        assert isinstance(recipe(name), Recipe)
        head = (folder / f"{name}.yaml").read_text().split("\n#   abpn ")
        assert head[0].startswith("# "), name
        assert "# Cost: " in head[1], name


def test_rate_halves_where_the_recipe_says() -> None:
    optimizer = loop._optimizer(recipe("paper"))
    rates = [float(optimizer._learning_rate(step)) for step in (0, 200_001, 400_001, 900_000)]
    assert rates == pytest.approx([1e-3, 5e-4, 2.5e-4, 6.25e-5])


@pytest.mark.parametrize(
    ("name", "changes", "word"),
    [
        ("nonsense", {}, "long-1-base"),
        ("table2", {"network": "resnet"}, "resnet"),
        ("table2", {"steps": 0}, "steps"),
        ("table2", {"steps": 10**30}, "steps"),
        ("table2", {"scale": 50}, "scale"),
        ("table2", {"pairs": 2000}, "pairs"),
        ("table2", {"seed": -1}, "seed"),
        ("table2", {"lr": 0.0}, "lr"),
        ("table2", {"lr": float("nan")}, "lr"),
        ("table2", {"lr": float("inf")}, "lr"),
        ("table2", {"noise": float("nan")}, "finite"),
    ],
)
def test_bad_recipes_are_named(name: str, changes: dict, word: str) -> None:
    with pytest.raises(InputError, match=word):
        recipe(name, **changes)


@pytest.mark.parametrize(
    ("content", "word"), [({"stepps": 3}, "stepps"), ({"steps": "many"}, "steps"), ({"init": "zeros"}, "init")]
)
def test_an_unknown_field_of_a_recipe_is_named(content: dict, word: str) -> None:
    with pytest.raises(InputError, match=f"my recipe.*{word}"):
        from_fields(content, "my recipe")


def test_batches_are_aligned_and_depend_on_seed_and_step_alone(cat: np.ndarray) -> None:
    patches = batches.Patches([cat], replace(TINY, patch=16))
    lr, hr = batches.batch_at(patches, 4, seed=1, step=7)
    again, _ = batches.batch_at(patches, 4, seed=1, step=7)
    other, _ = batches.batch_at(patches, 4, seed=1, step=8)
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
    patches = batches.Patches([ramp], replace(TINY, patch=16))
    seen = {
        tuple(np.sign([lr[-1, 0, 0] - lr[0, 0, 0], lr[0, -1, 0] - lr[0, 0, 0]]).tolist())
        for step in range(20)
        for lr in batches.batch_at(patches, 4, 0, step)[0]
    }
    assert seen == {(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)}


def test_images_smaller_than_a_patch_are_refused() -> None:
    with pytest.raises(InputError, match="48 pixels"):
        batches.Patches([np.zeros((30, 30, 3), np.uint8)], replace(TINY, patch=16))


def test_training_lowers_the_loss_and_writes_what_it_says(tmp_path: Path, cat: np.ndarray) -> None:
    made = recipe(
        "table2", data="embedded", steps=40, batch=4, patch=16, init="he", ema_decay=0.0, optimizer="adam", lr=1e-3
    )
    model = loop.train(made, [cat], tmp_path, validation=[(bicubic_down(cat, 3), cat)], save_every=10, progress=False)
    log = list(runs.read_log(tmp_path))
    assert [row["step"] for row in log] == [10, 20, 30, 40]
    assert log[-1]["loss"] < log[0]["loss"]
    fresh = networks.build("abpn")
    runs.load_weights(fresh, tmp_path / "weights.npz")
    np.testing.assert_array_equal(fresh.get_weights()[0], model.get_weights()[0])
    with pytest.raises(DataError, match="fsrcnn"):
        runs.load_weights(networks.build("fsrcnn"), tmp_path / "weights.npz")


def test_a_hard_patch_counts_no_more_than_an_easy_one_in_the_logarithm() -> None:
    errors = tf.Variable(np.random.default_rng(0).normal(0, [[[[0.05]]], [[[0.2]]]], (2, 6, 6, 3)).astype(np.float32))
    part = {}
    for loss in ("l2", "log-l2"):
        with tf.GradientTape() as tape:
            value = loop._loss(loss, errors)
        slope = tape.gradient(value, errors) * errors
        part[loss] = [float(tf.reduce_sum(patch)) for patch in slope]
    assert part["l2"][1] > 10 * part["l2"][0]
    assert part["log-l2"][0] == pytest.approx(part["log-l2"][1], rel=0.05)


def test_a_loss_that_is_not_finite_stops_the_run_with_its_reason(tmp_path: Path, cat: np.ndarray) -> None:
    model = networks.build("abpn")
    model.get_layer("transition").bias.assign(np.full(27, np.nan, np.float32))
    with pytest.raises(DataError, match=r"not finite at step 1.*--lr"):
        loop.train(TINY, [cat], tmp_path, model=model, save_every=2, progress=False)
    assert not (tmp_path / "weights.npz").exists()


def test_a_killed_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    subprocess.run([*COMMAND, str(unbroken)], check=True, capture_output=True)
    process = subprocess.Popen([*COMMAND, str(broken)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (broken / "log.csv").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "weights.npz").exists(), "the run ended before it could be killed: give it more steps"
    stopped_at = list(runs.read_log(broken))[-1]["step"]
    assert 0 < stopped_at < 40
    subprocess.run([*COMMAND, str(broken)], check=True, capture_output=True)
    assert (broken / "weights.npz").read_bytes() == (unbroken / "weights.npz").read_bytes()
    rows = [[(row["step"], row["loss"]) for row in runs.read_log(folder)] for folder in (unbroken, broken)]
    spent = [row["cpu_seconds"] for row in runs.read_log(broken)]
    assert spent == sorted(spent), "a run that goes on counts on"
    assert rows[0] == rows[1]


def test_a_folder_of_another_run_is_left_alone(tmp_path: Path, cat: np.ndarray) -> None:
    (tmp_path / "recipe.json").write_bytes(b"\xff{}")
    with pytest.raises(InputError, match="another recipe"):
        loop.train(TINY, [cat], tmp_path, progress=False)
    assert (tmp_path / "recipe.json").read_bytes() == b"\xff{}"


def test_a_run_that_is_refused_claims_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--lr", "nan"], ["--patch", "4000"], ["--data", "nosuch"], ["--after", tmp_path], ["--pairs", "-1"]):
        assert abpn("train", *WORDS, *words, "--out", tmp_path / "run") == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("weights.npz", b"PK\x03\x04 cut"), ("weights.npz", b""), ("checkpoint.npz", b"not a checkpoint"),
        ("provenance.json", b"\xff"), ("provenance.json", b'{"recipe": {"steps": 3}}'), ("provenance.json", b"[]"),
    ],
)
def test_a_damaged_run_is_named_in_one_line(
    copy: Path, tmp_path: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / name).write_bytes(content)
    commands: list[list[object]] = [
        ["train", *WORDS, "--steps", 2, "--after", copy, "--out", tmp_path / "next"],
        ["average", copy, copy, "--out", tmp_path / "mean"],
    ]
    if name == "checkpoint.npz":
        commands = [["train", *WORDS, "--steps", 4, "--out", copy]]
    capsys.readouterr()
    calls = [functools.partial(abpn, *words) for words in commands]
    if name != "checkpoint.npz":
        calls.append(functools.partial(curves.main, [str(copy)]))
    for call in calls:
        assert call() == 2, call
        error = capsys.readouterr().err.strip()
        assert len(error.splitlines()) == 1, error
        assert "copy" in error or "averaged" in error
    assert not (tmp_path / "mean").exists()


def test_weights_that_are_not_numbers_are_refused(copy: Path) -> None:
    arrays = _weights(copy)
    arrays["transition/bias:0"][:] = np.nan
    runs.save_npz(copy / "weights.npz", arrays)
    with pytest.raises(DataError, match="not finite"):
        runs.load_weights(networks.build("abpn"), copy / "weights.npz")


def test_a_log_without_a_column_is_named(copy: Path) -> None:
    (copy / "log.csv").write_text("step,loss\n1,0.5\n")
    with pytest.raises(DataError, match=r"log\.csv is not the log of a run"):
        list(runs.read_log(copy))


# Logical devices must be made before TensorFlow starts, hence a process of its own.
DISTRIBUTED = """
import sys
from pathlib import Path
import numpy as np, skimage.data, tensorflow as tf
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from abpn_lib.train import loop, runs
from abpn_lib.train.recipe import recipe
from abpn_lib.files import InputError
out, cat = Path(sys.argv[1]), skimage.data.chelsea()[:300, :450]

def run(name, optimizer, strategy=None, **options):
    made = recipe("ablation", data="embedded", steps=4, batch=4, patch=16, optimizer=optimizer)
    return loop.train(
        made, [cat], out / name, progress=False, save_every=2, strategy=strategy, **options
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
losses = [[row["loss"] for row in runs.read_log(out / name)] for name in ("one-soap", "two-soap")]
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
    loop.train(recipe("ablation", steps=1, batch=3, patch=16), [cat], out / "odd", strategy=two)
except InputError as error:
    assert "2 devices" in str(error)
else:
    raise AssertionError("three patches were shared by two devices")
"""


@pytest.mark.slow
def test_two_devices_share_a_batch_and_find_the_weights_of_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DISTRIBUTED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_command_shares_a_batch_among_devices(tmp_path: Path) -> None:
    one, two, after, odd = (tmp_path / name for name in ("one", "two", "after", "odd"))

    def train(out: Path, devices: int, *words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "abpn_lib.cli", "train", "--recipe", "ablation", *WORDS, "--optimizer", "adam",
                   "--steps", 4, "--devices", devices, "--out", out, *words]
        return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)

    for out, devices, words in ((one, 1, ()), (two, 2, ()), (after, 2, ("--after", one))):
        done = train(out, devices, *words)
        assert done.returncode == 0, done.stderr
    alone, shared, longer = (runs.load_npz(folder / "weights.npz") for folder in (one, two, after))
    for name, weights in alone.items():
        np.testing.assert_allclose(shared[name], weights, rtol=1e-4, atol=1e-7)
    assert any(not np.array_equal(longer[name], weights) for name, weights in alone.items()), "it went on"
    refused = train(odd, 2, "--batch", 3)
    assert (refused.returncode, refused.stderr) == (2, "abpn: a batch of 3 cannot be shared by 2 devices\n")
    assert not odd.exists()


def test_more_devices_than_there_are_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop.shared(None)  # TensorFlow has started: the processor cannot be parted any more
    assert abpn("train", *WORDS, "--devices", 3, "--out", tmp_path / "run") == 2
    assert capsys.readouterr().err.startswith("abpn: --devices 3: there are ")
    assert not (tmp_path / "run").exists()


def test_a_few_steps_of_the_papers_recipe(tmp_path: Path) -> None:
    words = ["--recipe", "paper", "--data", "embedded", "--steps", "3", "--batch", "2", "--quiet", "--no-validation"]
    assert abpn("train", *words, "--out", tmp_path) == 0
    finished = runs.read_run(tmp_path)
    assert (finished.recipe.patch, finished.recipe.optimizer, finished.recipe.init) == (64, "adam", "he")
    assert [row["step"] for row in runs.read_log(tmp_path)] == [3]
    runs.load_weights(networks.build("abpn"), tmp_path / "weights.npz")


def test_a_run_goes_on_from_another_and_says_so(first: Path, tmp_path: Path, cat: np.ndarray) -> None:
    after = ["--steps", 4, "--recipe", "long-2-revive", "--after", first, "--out", tmp_path]
    assert abpn("train", *WORDS, *after) == 0
    finished = runs.read_run(tmp_path)
    assert finished.recipe.revive
    assert (finished.recipe.init, finished.recipe.rescaled_copies, finished.recipe.bias_lr_factor) == (
        "run", (70, 50), 0.1,
    )
    assert finished.provenance["started_from"]["recipe"]["network"] == "abpn"
    assert len(finished.provenance["started_from"]["weights_sha256"]) == 64
    start = loop.build_after(first, finished.recipe, [bicubic_down(cat, 3)])
    np.testing.assert_array_equal(start.get_layer("transition").get_weights()[1], _weights(first)["transition/bias:0"])


def test_runs_from_one_start_are_averaged_and_say_of_what(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(name: str, *more: object) -> Path:
        assert abpn("train", *WORDS, "--steps", 2, *more, "--out", tmp_path / name) == 0
        return tmp_path / name

    tuned = [train(f"tuned{seed}", "--recipe", "long-3-finetune", "--after", first, "--seed", seed) for seed in (3, 4)]
    assert abpn("average", *tuned, "--out", tmp_path / "mean") == 0
    one, other, mean = (_weights(folder) for folder in (*tuned, tmp_path / "mean"))
    assert (one["dfe1/kernel:0"] != other["dfe1/kernel:0"]).any()
    np.testing.assert_allclose(mean["dfe1/kernel:0"], (one["dfe1/kernel:0"] + other["dfe1/kernel:0"]) / 2, rtol=1e-6)
    assert abpn("average", first, tuned[0], "--out", tmp_path / "half") == 0
    unrelated = train("unrelated", "--seed", "1")
    made = runs.read_run(tmp_path / "mean").provenance
    assert [part["seed"] for part in made["average_of"]] == [3, 4]
    assert made["command"].startswith("abpn average")
    capsys.readouterr()
    for wrong, out in (([tuned[0]], "x"), ([unrelated, tuned[0]], "x"), (tuned, "mean")):
        assert abpn("average", *wrong, "--out", tmp_path / out) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
        assert not (tmp_path / "x").exists()


def _weights(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "weights.npz") as saved:
        return dict(saved)


def test_a_start_that_does_not_fit_is_refused(first: Path, tmp_path: Path, cat: np.ndarray) -> None:
    with pytest.raises(InputError, match="--after"):
        loop.build_start(recipe("long-2-revive"))
    with pytest.raises(DataError, match="no finished run"):
        loop.build_after(tmp_path, recipe("long-2-revive"), [cat])
    with pytest.raises(InputError, match="network abpn, the recipe fsrl"):
        loop.build_after(first, recipe("long-2-revive", network="fsrl"), [cat])


def test_an_abpn_is_widened_where_the_recipe_has_32_channels(first: Path, cat: np.ndarray) -> None:
    wide = replace(recipe("long-6-32-channels"), revive=False)
    lr = bicubic_down(cat, 3)[None].astype(np.float32) / 255
    one, other = (loop.build_after(first, made, [])(lr) for made in (wide, replace(wide, network="abpn")))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_copies_are_the_images_at_other_sizes(cat: np.ndarray) -> None:
    shown = list(batches.with_rescaled_copies([cat], replace(TINY, rescaled_copies=(70, 50))))
    assert [image.shape for image, _ in shown] == [(300, 450, 3), (210, 315, 3), (150, 225, 3)]
    assert {weight for _, weight in shown} == {1.0}
    np.testing.assert_array_equal(shown[0][0], cat)


def test_small_images_are_shown_as_copies_alone_and_less_often(cat: np.ndarray) -> None:
    small = cat[:150, :150]
    made = replace(TINY, rescaled_copies=(50,), photo_pixels=100_000, photo_weight=4.0)
    shown = list(batches.with_rescaled_copies([small, cat], made))
    assert [(image.shape[0], weight) for image, weight in shown] == [(75, 1.0), (300, 4.0), (150, 4.0)]
    patches = batches.Patches([small, cat], replace(made, patch=16))
    np.testing.assert_allclose(patches.chance, np.array([75**2, 4 * 300 * 450, 4 * 150 * 225]) / 680625)


def test_dead_channels_of_a_run_are_counted(copy: Path, cat: np.ndarray) -> None:
    model = networks.build("abpn")
    runs.load_weights(model, copy / "weights.npz")
    lr = bicubic_down(cat, 3)
    (before,) = curves.dead_channels(copy, [lr])
    model.get_layer("dfe3").bias.assign(np.full(28, -1e3, np.float32))
    runs.save_weights(model, copy / "weights.npz")
    (after,) = curves.dead_channels(copy, [lr])
    assert str(after.columns["layers"]).split()[3] == "28"
    assert after.value > before.value
