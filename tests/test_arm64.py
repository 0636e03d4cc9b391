"""The emulated ARM64 core: what fails says so in one line; the guest program and the arithmetic, on real processes.

Most of it needs no emulator: the guest program is compiled for this machine and run by a stand-in for qemu-aarch64,
a script that starts it. What needs qemu itself runs where ABPN_ARM64_PREFIX names a folder that
`python -m tools.arm64 --prefix FOLDER --prepare` has filled.
"""

from __future__ import annotations

import http.server
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import ai_edge_litert
import numpy as np
import pytest

from abpn_lib import models, results
from tools.arm64 import __main__ as program
from tools.arm64 import arm64

ROOT = Path(__file__).parent.parent
LIBRARY = Path(ai_edge_litert.__file__).parent / "libLiteRt.so"
PREFIX = os.environ.get("ABPN_ARM64_PREFIX")

native = pytest.mark.skipif(
    not (LIBRARY.is_file() and shutil.which("cc") and sys.platform == "linux"),
    reason="needs Linux, a C compiler and LiteRT's shared library",
)
emulated = pytest.mark.skipif(
    not PREFIX,
    reason="needs qemu-user, and in ABPN_ARM64_PREFIX a folder that `python -m tools.arm64 --prepare` filled",
)

# Takes qemu's options, and starts the guest as it is. 70000 instructions before the first invoke, 5000 in each one.
QEMU = """#!{python}
import os, sys
if sys.argv[1] == "--version":
    sys.exit(print("qemu-aarch64 version 7.2.22 (a stand-in)"))
if sys.argv[1] == "--help":
    sys.exit(print("usage: qemu-aarch64\\n{plugin}"))
words = sys.argv[1:]
start = next(i for i, word in enumerate(words) if word.endswith("/guest"))
if "-D" in words and {counts}:
    with open(words[words.index("-D") + 1], "w") as log:
        print("instructions:", 70000 + 5000 * int(words[-1]) * {counts}, file=log)
{death}
os.execv(words[start], words[start:])
"""


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def stand_in(folder: Path, *, plugin: str = "", counts: int = 1, death: str = "") -> Path:
    """A folder with a qemu-aarch64 in it that is none; return the folder."""
    text = QEMU.format(python=sys.executable, plugin=plugin, counts=counts, death=death)
    return script(folder / "bin" / "qemu-aarch64", text).parent


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a prepared one, for this machine's own processor. Its name has what shells and qemu split at."""
    folder = tmp_path_factory.mktemp("a prefix, native")
    (folder / "lib").mkdir()
    shutil.copyfile(LIBRARY, folder / "lib" / LIBRARY.name)
    arm64.build_guest("cc", folder / "lib" / LIBRARY.name, folder / "guest")
    arm64.write_manifest(folder, "2.3.0")
    return folder


def abpn(*words: str | Path, path: Path | None, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m tools.arm64`, with `path` before what PATH names, or alone on it if it is empty."""
    found = os.environ["PATH"] if path is None else str(path)
    if path is not None and any(path.iterdir()):
        found += os.pathsep + os.environ["PATH"]
    command = [sys.executable, "-m", "tools.arm64", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": found, **environment})


def refused(done: subprocess.CompletedProcess[str], *mentions: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    ours = [line for line in done.stderr.splitlines() if line.startswith("abpn: ")]
    assert len(ours) == 1, done.stderr
    assert all(mention in ours[0] for mention in mentions), done.stderr


# --- what is not there


@pytest.fixture
def nothing(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def test_without_qemu_it_says_what_to_install(tmp_path: Path, nothing: Path) -> None:
    refused(
        abpn("--prefix", tmp_path, path=nothing),
        "qemu-aarch64 is not there: install qemu-user (apt-get install qemu-user)",
    )


def test_a_folder_that_is_not_prepared(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    done = abpn("--prefix", folder, path=stand_in(tmp_path))
    refused(done, f"{folder} is not prepared: run `python -m tools.arm64 --prefix {folder} --prepare`")


def test_preparing_needs_the_cross_compiler_and_leaves_nothing(tmp_path: Path, nothing: Path) -> None:
    refused(
        abpn("--prefix", tmp_path / "prefix", "--prepare", path=nothing),
        "aarch64-linux-gnu-gcc is not there", "apt-get install gcc-aarch64-linux-gnu",
    )
    assert not (tmp_path / "prefix").exists()


@pytest.mark.parametrize(
    ("words", "mention"),
    [
        (["--size", "64"], "size '64' is not WIDTHxHEIGHT"),
        (["--size", "64x64", "--size", "0x9"], "size '0x9'"),
        (["--out", "nowhere/records.json"], "nowhere/records.json: its folder does not exist"),
    ],
)
def test_bad_arguments_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], mention: str
) -> None:
    assert program.main(["--prefix", str(tmp_path), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert mention in line


@pytest.mark.parametrize(("words", "mention"), [([], "--prefix"), (["--prefix", "x", "--kernels", "y"], "--kernels")])
def test_what_the_parser_refuses(capsys: pytest.CaptureFixture[str], words: list[str], mention: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        program.main(words)
    assert mention in capsys.readouterr().err.splitlines()[-1]


def test_help_names_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        program.main(["--help"])
    text = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    sizes = [f"{width}x{height}" for height, width in arm64.SIZES]
    for names in (arm64.CPUS, arm64.MODELS, sizes):
        assert f"({', '.join(names)})" in text


# --- the folder


@native
def test_a_prepared_folder_opens_and_a_changed_one_does_not(prefix: Path, tmp_path: Path) -> None:
    assert arm64.open_prefix(prefix) == arm64.Prefix(prefix.resolve(), "2.3.0")
    copy = tmp_path / "copy"
    shutil.copytree(prefix, copy)
    with (copy / "guest").open("ab") as guest:
        guest.write(b"\0")
    with pytest.raises(arm64.DeviceError, match=r"guest is not as it was prepared: run `python -m tools.arm64"):
        arm64.open_prefix(copy)
    (copy / "guest").unlink()
    with pytest.raises(arm64.DeviceError, match=r"guest is not as it was prepared"):
        arm64.open_prefix(copy)


@native
@pytest.mark.parametrize(
    ("change", "mention"),
    [
        (lambda text: text[:50], "cannot be read"),
        (lambda text: "[]", "cannot be read"),
        (lambda text: json.dumps({**json.loads(text), "source": "int main;"}), "another version of the guest"),
    ],
)
def test_a_manifest_that_does_not_fit(prefix: Path, tmp_path: Path, change, mention: str) -> None:
    (tmp_path / "prepared.json").write_text(change((prefix / "prepared.json").read_text()))
    with pytest.raises(arm64.DeviceError, match=mention):
        arm64.open_prefix(tmp_path)


def test_the_pinned_wheel_is_the_locked_one() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    entry = re.search(rf"^ai-edge-litert=={re.escape(arm64.WHEEL.version)} \\\n((?:    --hash.*\n)+)", lock, re.M)
    assert entry, "the lock has another version of ai-edge-litert: pin its aarch64 wheel in abpn_lib/arm64.py"
    assert arm64.WHEEL.sha256 in entry[1]


# --- the download


def fake_wheel(folder: Path) -> Path:
    """A wheel for aarch64 with this machine's library in it."""
    path = folder / f"ai_edge_litert-{arm64.WHEEL.version}-cp311-cp311-manylinux_2_27_aarch64.whl"
    info = f"ai_edge_litert-{arm64.WHEEL.version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: ai-edge-litert\nVersion: {arm64.WHEEL.version}\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: cp311-cp311-manylinux_2_27_aarch64\n")
        archive.writestr(f"{info}/RECORD", "")
        archive.write(LIBRARY, f"ai_edge_litert/{LIBRARY.name}")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An index of packages on loopback, with one wheel, as the only one that pip knows; its folder."""
    if not find_spec("pip"):
        pytest.skip("needs pip")
    folder = tmp_path / "index"
    (folder / "ai-edge-litert").mkdir(parents=True)
    wheel = fake_wheel(folder / "ai-edge-litert")
    (folder / "ai-edge-litert" / "index.html").write_text(f'<html><body><a href="{wheel.name}">{wheel.name}</a></body>')

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given, **more) -> None:
            super().__init__(*given, directory=str(folder), **more)

        def log_message(self, *given) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in list(os.environ):
        if name.startswith("PIP_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}")
    yield folder / "ai-edge-litert"
    server.shutdown()


def stand_in_toolchain(folder: Path) -> Path:
    """A cross compiler that compiles for this machine, with this machine's libraries; its folder."""
    loader = folder / "ld-linux-aarch64.so.1"
    loader.touch()
    text = f'#!/bin/sh\ncase "$1" in -print-file-name=ld-*) echo "{loader}";; *) exec cc "$@";; esac\n'
    return script(folder / "toolchain" / "aarch64-linux-gnu-gcc", text).parent


@native
def test_a_hash_that_does_not_fit_leaves_nothing(tmp_path: Path, index: Path) -> None:
    done = abpn("--prefix", tmp_path / "prefix", "--prepare", path=stand_in_toolchain(tmp_path))
    refused(done, "manylinux_2_27_aarch64.whl: its sha256 is ", f"not {arm64.WHEEL.sha256}: it was thrown away")
    assert not (tmp_path / "prefix").exists()


@native
def test_a_wheel_that_is_not_on_the_index(tmp_path: Path, index: Path) -> None:
    (index / "index.html").write_text("<html><body></body></html>")
    done = abpn("--prefix", tmp_path / "prefix", "--prepare", path=stand_in_toolchain(tmp_path))
    refused(done, f"pip could not fetch ai-edge-litert=={arm64.WHEEL.version} for aarch64 (ERROR: ")


@native
def test_preparing_fills_a_folder_that_runs(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from abpn_lib.files import sha256

    monkeypatch.setenv("PATH", f"{stand_in_toolchain(tmp_path)}{os.pathsep}{os.environ['PATH']}")
    wheel = arm64.Wheel(arm64.WHEEL.version, sha256(next(index.glob("*.whl"))))
    prefix = arm64.prepare(tmp_path / "prefix", wheel)
    assert sorted(path.name for path in (tmp_path / "prefix").iterdir()) == ["guest", "lib", "prepared.json"]
    assert arm64.open_prefix(tmp_path / "prefix") == prefix
    # A second time over the first.
    assert arm64.prepare(tmp_path / "prefix", wheel) == prefix
    machine = arm64.start(prefix, native_emulator(tmp_path, monkeypatch), "none")
    assert machine.libc == platform.libc_ver()[1]


# --- the guest, run here


def native_emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **given) -> arm64.Emulator:
    monkeypatch.setenv("PATH", f"{stand_in(tmp_path, **given)}{os.pathsep}{os.environ['PATH']}")
    return arm64.find_emulator()


@native
@pytest.mark.parametrize("name", arm64.MODELS)
def test_the_guest_program_gives_the_bits_of_the_interpreter(
    prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """LiteRT's C interface under the stand-in, and its Python interpreter: one processor, so the same bits."""
    machine = arm64.start(arm64.open_prefix(prefix), native_emulator(tmp_path, monkeypatch), "none")
    for image in arm64.IMAGES:
        options = {"image": image, "size": (17, 24)}
        (xnnpack,) = arm64.compare(machine, models.find(name), kernels="xnnpack", **options)
        assert xnnpack.same
        assert xnnpack.sound
        # Here the two paths differ, so the guest's choice of kernels is seen to work.
        unlike, builtin = arm64.compare(machine, models.find(name), kernels="builtin", **options)
        assert (unlike.reference, builtin.reference) == ("xnnpack", "builtin")
        assert builtin.same
        assert unlike.largest == unlike.own == xnnpack.own


@native
def test_records_and_text_of_a_whole_run(prefix: Path, tmp_path: Path) -> None:
    out = tmp_path / "records.json"
    words = ["--prefix", prefix, "--cpu", "some-core", "--model", arm64.MODELS[0], "--size", "12x9", "--size", "24x18"]
    done = abpn(*words, "--out", out, path=stand_in(tmp_path, plugin="-plugin  QEMU_PLUGIN"))
    assert done.returncode == 0, done.stderr
    assert "12x9      random     same bits as xnnpack on" in done.stdout
    assert "say nothing of time" in done.stdout
    assert " ms" not in done.stdout
    records = results.load(out)
    assert {record.context.device for record in records} == {"qemu-aarch64 7.2.22, -cpu some-core (emulated)"}
    assert {record.subject for record in records} == {arm64.MODELS[0]}
    assert all(record.model_sha256 and record.context.versions["qemu-aarch64"] == "7.2.22" for record in records)
    common = {"cpu": "some-core", "emulator": "qemu-aarch64 7.2.22", "litert": "2.3.0"}
    here = platform.machine()
    for kernels, size, pixels in (("xnnpack", "12x9", 972), ("builtin", "24x18", 3888)):
        found = results.find("guest-instructions", records, kernels=kernels, size=size, **common)
        assert found.unit == "instructions per output pixel"
        assert found.value == pytest.approx(5000 / pixels)
        assert found.spread == pytest.approx((5000 / pixels, 5000 / pixels))
        assert found.count == 2
    same = [record for record in records if record.quantity == "same-bits"]
    assert len(same) == 2 * 3
    columns = {"network", "form", *common, "kernels", "size", "image", "reference"}
    assert all(set(record.columns) == columns for record in same)
    for image in arm64.IMAGES:
        for quantity, value in (("same-bits", 1.0), ("largest-difference", 0.0)):
            where = {"kernels": "xnnpack", "image": image, "reference": f"xnnpack on {here}", "size": "12x9"}
            assert results.find(quantity, records, **where).value == value


@native
@pytest.mark.parametrize(
    ("given", "mention"),
    [
        ({}, "7.2.22 was built without plugins"),
        ({"plugin": "-plugin", "counts": 0}, "no count came back"),
        ({"plugin": "-plugin", "counts": -1}, "do not tell how many an invoke has"),
        ({"plugin": "-plugin", "death": "if '-plugin' in words: sys.exit('bad plugin')"}, "died under"),
    ],
)
def test_without_counts_the_bits_are_still_compared(
    prefix: Path, tmp_path: Path, given: dict[str, object], mention: str
) -> None:
    out = tmp_path / "records.json"
    words = ["--prefix", prefix, "--cpu", "c", "--model", arm64.MODELS[0], "--kernels", "xnnpack", "--size", "9x9"]
    done = abpn(*words, "--out", out, "--quiet", path=stand_in(tmp_path, **given))
    refused(done, mention)
    assert {record.quantity for record in results.load(out)} == {"same-bits", "largest-difference"}
    assert "same bits as xnnpack" in done.stdout


@native
def test_without_a_compiler_the_bits_are_still_compared(prefix: Path, tmp_path: Path) -> None:
    alone = stand_in(tmp_path, plugin="-plugin")
    words = ["--prefix", prefix, "--cpu", "c", "--model", arm64.MODELS[0], "--kernels", "xnnpack", "--size", "9x9"]
    command = [sys.executable, "-m", "tools.arm64", *map(str, words), "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": str(alone)})
    refused(done, "cc is not there: it compiles the plugin that counts instructions")
    assert {row["quantity"] for row in json.loads(done.stdout)} == {"same-bits", "largest-difference"}


@native
def test_a_guest_that_dies_is_said_with_its_last_words(prefix: Path, tmp_path: Path) -> None:
    out = tmp_path / "records.json"
    words = ["--prefix", prefix, "--cpu", "c", "--size", "9x9", "--out", out]
    dying = "print('qemu: uncaught target signal 4', file=sys.stderr, flush=True); os.kill(os.getpid(), 4)"
    refused(
        abpn(*words, path=stand_in(tmp_path, death=dying)),
        "the guest program died under qemu-aarch64 7.2.22 -cpu c (SIGILL; qemu: uncaught target signal 4)",
    )
    assert not out.exists()


@native
def test_a_model_that_the_guest_cannot_take(prefix: Path, tmp_path: Path) -> None:
    words = ["--prefix", prefix, "--cpu", "c", "--size", "9x9", "--model"]
    refused(abpn(*words, "abpn-fp32", path=stand_in(tmp_path)), "abpn-fp32.tflite: the guest runs models with uint8")
    refused(abpn(*words, "no-such-model", path=stand_in(tmp_path)), "no-such-model")


@native
def test_the_guest_program_refuses_what_it_cannot_run(prefix: Path, tmp_path: Path) -> None:
    def guest(*words: object, pixels: bytes = b"") -> str:
        done = subprocess.run([prefix / "guest", *map(str, words)], input=pixels, capture_output=True)
        assert done.returncode == 1
        assert not done.stdout
        return done.stderr.decode().splitlines()[-1]

    model = models.find(arm64.MODELS[0])
    (tmp_path / "bad.tflite").write_text("no model")
    assert "six arguments" in guest(model)
    assert "LiteRtCreateModelFromFile" in guest(tmp_path / "bad.tflite", 0, 9, 9, 2187, 1)
    assert "too few pixels" in guest(model, 0, 9, 9, 2187, 1, pixels=b"few")
    assert "not uint8" in guest(models.find("abpn-fp32"), 0, 9, 9, 2187, 1)


# --- the arithmetic


def test_an_invoke_is_what_one_more_invoke_adds() -> None:
    counts = arm64.Counts("xnnpack", (10, 5), 450, (10_000, 19_000, 28_900))
    assert counts.per_pixel == pytest.approx((21.0, 20.0, 22.0))


@pytest.mark.parametrize("totals", [(), (5,), (5, 5), (5, 9, 8)])
def test_runs_that_tell_nothing_are_refused(totals: tuple[int, ...]) -> None:
    with pytest.raises(arm64.CountError, match="do not tell how many an invoke has"):
        arm64.Counts("xnnpack", (10, 5), 450, totals)


def test_output_further_than_the_own_paths_is_wrong() -> None:
    def comparison(largest: int) -> arm64.Comparison:
        return arm64.Comparison("xnnpack", "xnnpack", "random", (9, 9), largest, 3)

    assert [(comparison(n).same, comparison(n).sound) for n in (0, 3, 4)] == [
        (True, True), (False, True), (False, False),
    ]


@native
def test_a_wrong_output_is_reported_and_not_counted(
    prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in turns the guest's output around, as an emulator that computes wrongly would."""
    death = (
        "import subprocess\n"
        "done = subprocess.run(words[start:], input=sys.stdin.buffer.read(), capture_output=True, check=True)\n"
        "out = done.stdout if len(words) - start == 1 else done.stdout[::-1]\n"
        "sys.exit(sys.stdout.buffer.write(out) * 0)"
    )
    emulator = native_emulator(tmp_path, monkeypatch, plugin="-plugin", death=death)
    machine = arm64.start(arm64.open_prefix(prefix), emulator, "c")
    found = arm64.measure([machine], [models.find(arm64.MODELS[0])], ["xnnpack"], [(9, 9)])
    assert not found.counted
    assert not any(comparison.same for _, _, comparison in found.compared)
    assert "wrong, so not counted" in "\n".join(found.lines())


def test_the_images_are_what_they_are_called() -> None:
    astronaut, noise = (arm64.lr_image(name, 30, 40) for name in arm64.IMAGES)
    assert astronaut.shape == noise.shape == (30, 40, 3)
    steps = [np.abs(np.diff(image.astype(int), axis=1)).mean() for image in (astronaut, noise)]
    assert 2 * steps[0] < steps[1]
    with pytest.raises(arm64.DeviceError, match="no image is called cat; there are astronaut, random"):
        arm64.lr_image("cat", 9, 9)


# --- qemu itself


@pytest.fixture(scope="module")
def emulator() -> arm64.Emulator:
    return arm64.find_emulator()


@emulated
@pytest.mark.parametrize("name", ["abpn-int8-ptq", "fsrcnn-int8-ptq"])
def test_an_emulated_core_gives_the_bits_of_this_machine(emulator: arm64.Emulator, name: str) -> None:
    machine = arm64.start(arm64.open_prefix(Path(PREFIX or "")), emulator, "cortex-a57")
    assert "asimd" in machine.features
    assert "asimddp" not in machine.features
    for image in arm64.IMAGES:
        (found,) = arm64.compare(machine, models.find(name), kernels="xnnpack", image=image, size=(20, 24))
        assert found.same


@emulated
def test_an_unknown_core_is_refused(tmp_path: Path) -> None:
    done = abpn("--prefix", PREFIX or "", "--cpu", "z80", "--out", tmp_path / "out.json", path=None)
    refused(done, "died under qemu-aarch64", "-cpu z80", "unable to find CPU model 'z80'")
    assert not (tmp_path / "out.json").exists()


@pytest.fixture(scope="module")
def counter(emulator: arm64.Emulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not emulator.plugins:
        pytest.skip("needs a qemu-aarch64 that was built with plugins")
    return arm64.build_counter(emulator, tmp_path_factory.mktemp("counter"))


LOOP = """.global _start
_start: ldr x0, =N
1: subs x0, x0, #1
b.ne 1b
mov x0, #0
mov x8, #94
svc #0
"""


@emulated
def test_the_counter_counts_a_known_loop_exactly(emulator: arm64.Emulator, counter: Path, tmp_path: Path) -> None:
    (tmp_path / "loop.S").write_text(LOOP)
    for times in (1000, 1_000_000):
        build = ["aarch64-linux-gnu-gcc", "-nostdlib", "-static", f"-DN={times}", "-o", "loop", "loop.S"]
        subprocess.run(build, cwd=tmp_path, check=True)
        shutil.copy(counter, tmp_path / "counter.so")
        plugin = ["-plugin", "./counter.so", "-d", "plugin", "-D", "log"]
        subprocess.run([emulator.program, *plugin, "./loop"], cwd=tmp_path, check=True)
        assert (tmp_path / "log").read_text() == f"instructions: {2 * times + 4}\n"


@emulated
def test_instructions_grow_with_pixels_and_fall_with_the_dot_product(emulator: arm64.Emulator, counter: Path) -> None:
    prefix = arm64.open_prefix(Path(PREFIX or ""))

    def per_pixel(cpu: str, size: tuple[int, int]) -> float:
        model = models.find("abpn-int8-ptq")
        counts = arm64.count(arm64.start(prefix, emulator, cpu), counter, model, kernels="xnnpack", size=size, runs=2)
        return counts.per_pixel[0]

    small = per_pixel("cortex-a57", (32, 32))
    assert per_pixel("cortex-a57", (32, 64)) == pytest.approx(small, rel=0.02)
    assert per_pixel("cortex-a76", (32, 32)) < small / 2
