"""An ARM64 processor without a phone: shipped models under qemu's user-mode emulation.

It answers two questions. Does LiteRT's aarch64 build give the same bits as the one here? And how many instructions
does an ARM64 core execute for each output pixel? Both are facts about the program, not about time: an emulator
says nothing of milliseconds, and none are derived here. Nor is the emulator above suspicion: the SME of qemu 7.2
(``-cpu max``) computes wrongly, that of qemu 10 does not. So nothing is counted where the output is wrong.

The guest is LiteRT's own aarch64 library, from the pinned wheel, called by ``guest.c`` through LiteRT's C
interface. (The wheel's Python part would need an aarch64 Python and NumPy besides.) `prepare` is the only step that
downloads. A plugin of qemu's, ``counter.c``, counts executed instructions; the same guest with one, two and
three invokes gives those of an invoke alone.

Sources: ``litert/c`` in google-ai-edge/LiteRT; QEMU's manual, "QEMU TCG Plugins".
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import itertools
import json
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from abpn_lib.files import DeviceError, sha256, write_atomically
from abpn_lib.results import Context, Record
from abpn_lib.tflite.interpreter import Kernels
from abpn_lib.tflite.upscaler import Upscaler

__all__ = [
    "CPUS", "IMAGES", "MODELS", "SIZES", "WHEEL",  "Comparison", "CountError", "Counts", "Emulator",
    "Findings", "Machine", "Prefix", "Wheel", "build_counter", "build_guest", "compare", "count", "find_emulator",
    "lr_image", "measure", "open_prefix", "prepare", "start", "write_manifest",
]

CPUS = ("cortex-a57", "cortex-a76")
"""Emulated cores of phones: without and with the dot product instructions."""

MODELS = ("abpn-int8-ptq", "abpn-long-int8-ptq", "fsrcnn-int8-ptq")
"""The shipped models that are compared and counted."""

SIZES = ((64, 64), (96, 96), (96, 128))
"""LR heights and widths."""

IMAGES = ("astronaut", "random")
"""The images of `lr_image`: a natural one, and noise."""

_TOOLCHAIN = "aarch64-linux-gnu-gcc"
_QEMU = ("qemu-aarch64", "qemu-aarch64-static")
_LIBRARY = "libLiteRt.so"
# What that library needs of the C and C++ libraries, and the loader.
_SYSTEM = ("ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6")
_MODES: dict[Kernels, int] = {"xnnpack": 0, "builtin": 2}
# As Linux names them in /proc/cpuinfo; (word of the auxiliary vector, bit).
_FEATURES = {
    "fp": (0, 0), "asimd": (0, 1), "crc32": (0, 7), "atomics": (0, 8), "fphp": (0, 9), "asimdhp": (0, 10),
    "asimddp": (0, 20), "sve": (0, 22), "sve2": (1, 1), "i8mm": (1, 13), "sme": (1, 23),
}
# Those by which XNNPACK chooses its INT8 kernels.
_TELLING = ("asimddp", "i8mm", "sve", "sve2", "sme")



class CountError(DeviceError):
    """The guest runs, but its instructions cannot be counted."""


@dataclass(frozen=True)
class Wheel:
    """A wheel of ai-edge-litert for aarch64, by version and hash."""

    version: str
    sha256: str


WHEEL = Wheel("2.3.0", "853fc608f96da87bd5f3458465dfb9abbf18d5ae6b94eceacead407146f175ae")
"""The one for CPython 3.11; the library in it is the same for all."""


@dataclass(frozen=True)
class Prefix:
    """A folder that `prepare` filled: the guest program and the aarch64 libraries beside it."""

    folder: Path
    litert: str


@dataclass(frozen=True)
class Emulator:
    """A qemu-aarch64, and whether it was built to take plugins."""

    program: Path
    version: str
    plugins: bool

    @property
    def name(self) -> str:
        """Program and version, as records name them."""
        return f"qemu-aarch64 {self.version}"


@dataclass(frozen=True)
class Machine:
    """An emulated core, ready to run the guest."""

    prefix: Prefix
    emulator: Emulator
    cpu: str
    midr: int  # the core's identity, by which XNNPACK knows it
    features: tuple[str, ...]
    libc: str

    @property
    def device(self) -> str:
        """What records call it; that it is emulated is part of the name."""
        telling = [name for name in _TELLING if name in self.features]
        having = f", with {' '.join(telling)}" if telling else ""
        return f"{self.emulator.name}, -cpu {self.cpu} (emulated){having}"


@dataclass(frozen=True)
class Comparison:
    """The guest's output beside this machine's: `kernels` there, `reference` kernels here.

    `largest` is the largest difference in levels (0 to 255); `own` that between this machine's two kernel paths.
    """

    kernels: Kernels
    reference: Kernels
    image: str
    size: tuple[int, int]
    largest: int
    own: int

    @property
    def same(self) -> bool:
        """Whether every value has the same bits."""
        return self.largest == 0

    @property
    def sound(self) -> bool:
        """Whether the guest is no further from this machine than this machine's two paths are from one another."""
        return self.largest <= self.own


@dataclass(frozen=True)
class Counts:
    """Executed guest instructions of whole runs: with one invoke, with two, and so on; `pixels` in an output image.

    Raises
    ------
    CountError
        If there are fewer than two runs, or one more invoke did not execute more.
    """

    kernels: Kernels
    size: tuple[int, int]
    pixels: int
    totals: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.totals) < 2 or min(self._steps) <= 0:
            runs = ", ".join(map(str, self.totals))
            raise CountError(f"runs of {runs} instructions do not tell how many an invoke has")

    @property
    def _steps(self) -> list[int]:
        return [after - before for before, after in itertools.pairwise(self.totals)]

    @property
    def per_pixel(self) -> tuple[float, float, float]:
        """Instructions of one invoke per output pixel: (mean, least, greatest) over successive runs' differences."""
        steps = self._steps
        mean = sum(steps) / len(steps) / self.pixels
        return mean, min(steps) / self.pixels, max(steps) / self.pixels


@dataclass
class Findings:
    """What `measure` found, and why nothing was counted where nothing could be."""

    compared: list[tuple[Machine, Path, Comparison]]
    counted: list[tuple[Machine, Path, Counts]]
    not_counted: CountError | None = None

    def records(self, context: Context) -> list[Record]:
        """"same-bits" (1 or 0), "largest-difference" in levels, and "guest-instructions" per output pixel."""
        made = []
        for machine, model, comparison in self.compared:
            made += _comparison_records(comparison, machine, model, _context(context, machine))
        return made + [
            _count_record(counts, machine, model, _context(context, machine))
            for machine, model, counts in self.counted
        ]

    def lines(self) -> list[str]:
        """The same as text."""
        here = platform.machine()
        lines = []
        for machine in dict.fromkeys(machine for machine, _, _ in self.compared):
            lines += [f"{machine.device}; LiteRT {machine.prefix.litert}"]
            for owner, model, found in self.compared:
                if owner is machine:
                    verdict = "same bits as" if found.same else f"differs by up to {found.largest} from"
                    wrong = "" if found.sound else ": wrong, so not counted"
                    beside = f"{verdict} {found.reference} on {here}{wrong}"
                    lines.append(f"  {model.stem:20} {found.kernels:8} {_text(found.size):9} {found.image:10} {beside}")
            for owner, model, counts in self.counted:
                if owner is machine:
                    mean = f"{counts.per_pixel[0]:10.1f} instructions per output pixel"
                    lines.append(f"  {model.stem:20} {counts.kernels:8} {_text(counts.size):9} {mean}")
        return [*lines, "Instructions are counted, and say nothing of time."]


# Preparing ---------------------------------------------------------------------------------------


def prepare(folder: Path, wheel: Wheel = WHEEL) -> Prefix:
    """Fill a folder with what the emulation needs: the one step that downloads (14 MB, through pip).

    The C and C++ libraries are copied from the system's cross compiler, which also builds the guest.

    Raises
    ------
    DeviceError
        If the cross compiler or pip is missing, the wheel cannot be had, or its hash is not the pinned one.
    """
    libraries = {name: _of_toolchain(name) for name in _SYSTEM}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        made = scratch / "made"
        (made / "lib").mkdir(parents=True)
        _take_library(_fetch(wheel, scratch), made / "lib" / _LIBRARY)
        for library, source in libraries.items():
            shutil.copyfile(source, made / "lib" / library)
        build_guest(_TOOLCHAIN, made / "lib" / _LIBRARY, made / "guest")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lib").mkdir(exist_ok=True)
        # Gone first, so that a folder which is filled by halves is not taken for prepared.
        (folder / "prepared.json").unlink(missing_ok=True)
        for path in (made / "guest", *sorted((made / "lib").iterdir())):
            target = folder / path.relative_to(made)
            write_atomically(target, path.read_bytes())
            target.chmod(0o755)
    write_manifest(folder, wheel.version)
    return open_prefix(folder)


def write_manifest(folder: Path, litert: str) -> None:
    """Write down what is in a prepared folder, by which `open_prefix` knows it."""
    files = [folder / "guest", *sorted((folder / "lib").iterdir())]
    manifest = {
        "litert": litert,
        "source": _source("guest.c"),
        "files": {path.relative_to(folder).as_posix(): sha256(path) for path in files},
    }
    write_atomically(folder / "prepared.json", (json.dumps(manifest, indent=1) + "\n").encode())


def open_prefix(folder: Path) -> Prefix:
    """The prepared folder, each of its files checked against its hash.

    Raises
    ------
    DeviceError
        If it is not prepared, was prepared for another version of this library, or has changed.
    """
    remedy = f"run `python -m tools.arm64 --prefix {folder} --prepare`"
    try:
        manifest = json.loads((folder / "prepared.json").read_text())
        litert, source, files = str(manifest["litert"]), manifest["source"], dict(manifest["files"])
    except FileNotFoundError:
        raise DeviceError(f"{folder} is not prepared: {remedy}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeviceError(f"{folder / 'prepared.json'} cannot be read ({error}): {remedy}") from error
    if source != _source("guest.c"):
        raise DeviceError(f"{folder} was prepared for another version of the guest program: {remedy}")
    changed = [name for name, digest in files.items() if not _has_hash(folder / name, digest)]
    if changed:
        raise DeviceError(f"{folder / changed[0]} is not as it was prepared: {remedy}")
    return Prefix(folder.resolve(), litert)


def build_guest(compiler: str, library: Path, target: Path) -> None:
    """Compile ``guest.c`` against LiteRT's library, which the program then looks for in ``lib`` beside it.

    Raises
    ------
    DeviceError
        If the compiler is not there, or fails.
    """
    # The library's own needs are met where the guest runs, not where it is built.
    options = ["-O2", "-Wl,--allow-shlib-undefined", "-Wl,-rpath,$ORIGIN/lib"]
    with importlib.resources.as_file(_resource("guest.c")) as source:
        _compile([compiler, *options, "-o", str(target), str(source), str(library)], "the guest program", DeviceError)


def _fetch(wheel: Wheel, scratch: Path) -> Path:
    if not importlib.util.find_spec("pip"):
        raise DeviceError("pip is not there: install it (python -m ensurepip)")
    name = f"ai-edge-litert=={wheel.version}"
    target = scratch / "wheel"
    # Named in full, so that any Python on any processor gets the same file.
    which = [
        "--platform", "manylinux_2_27_aarch64", "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311",
    ]
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--dest", str(target)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, *which, name], capture_output=True, text=True
    )
    found = sorted(target.glob("*.whl"))
    if done.returncode or len(found) != 1:
        raise DeviceError(f"pip could not fetch {name} for aarch64 ({_last_line(done.stderr)})")
    digest = sha256(found[0])
    if digest != wheel.sha256:
        raise DeviceError(f"{found[0].name}: its sha256 is {digest}, not {wheel.sha256}: it was thrown away")
    return found[0]


def _take_library(wheel: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            target.write_bytes(archive.read(f"ai_edge_litert/{_LIBRARY}"))
    except (KeyError, zipfile.BadZipFile) as error:
        raise DeviceError(f"{wheel.name} does not hold {_LIBRARY} ({error})") from error


def _of_toolchain(library: str) -> Path:
    """Where the cross compiler keeps a library."""
    remedy = "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross libstdc++6-arm64-cross"
    if not shutil.which(_TOOLCHAIN):
        raise DeviceError(f"{_TOOLCHAIN} is not there: install it ({remedy})")
    answer = subprocess.run([_TOOLCHAIN, f"-print-file-name={library}"], capture_output=True, text=True)
    # A name without a folder is the compiler's way of saying that it has none.
    path = Path(answer.stdout.strip())
    beside = path if path.is_absolute() and path.is_file() else Path("/usr/aarch64-linux-gnu/lib") / library
    if not beside.is_file():
        raise DeviceError(f"{library} for aarch64 is not there: install it ({remedy})")
    return beside


def _compile(command: Sequence[str], what: str, kind: type[DeviceError]) -> None:
    if not shutil.which(command[0]):
        raise kind(f"{command[0]} is not there: it compiles {what}; install it (apt-get install gcc)")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        raise kind(f"{command[0]} could not compile {what} ({_last_line(chr(10).join(errors) or done.stderr)})")


def _resource(name: str) -> importlib.resources.abc.Traversable:
    return Path(__file__).with_name(name)


def _source(name: str) -> str:
    return _resource(name).read_text(encoding="utf-8")


def _has_hash(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


# The emulator -------------------------------------------------------------------------------------


def find_emulator() -> Emulator:
    """The qemu-aarch64 of this machine.

    Raises
    ------
    DeviceError
        If there is none, or it does not run.
    """
    program = next((found for name in _QEMU if (found := shutil.which(name))), None)
    if not program:
        raise DeviceError("qemu-aarch64 is not there: install qemu-user (apt-get install qemu-user)")
    answers = [subprocess.run([program, flag], capture_output=True, text=True) for flag in ("--version", "--help")]
    version = re.search(r"version (\d+(?:\.\d+)+)", answers[0].stdout)
    if not version:
        raise DeviceError(f"{program} does not say its version ({_last_line(answers[0].stdout + answers[0].stderr)})")
    return Emulator(Path(program), version[1], bool(re.search(r"^-plugin\b", answers[1].stdout, re.MULTILINE)))


def start(prefix: Prefix, emulator: Emulator, cpu: str) -> Machine:
    """Ask the guest on which core it runs, as qemu's ``-cpu`` names it.

    Raises
    ------
    DeviceError
        If qemu does not know the core, or the guest dies.
    """
    unknown = Machine(prefix, emulator, cpu, 0, (), "")
    answer, _ = _run(unknown, [], b"", None)
    found = re.fullmatch(rb"midr ([0-9a-f]+) hwcap ([0-9a-f]+) hwcap2 ([0-9a-f]+) libc (\S+)\s*", answer)
    if not found:
        raise DeviceError(f"the guest under {emulator.name} -cpu {cpu} does not say on which core it runs")
    midr, *words = (int(word, 16) for word in found.groups()[:3])
    features = tuple(name for name, (word, bit) in _FEATURES.items() if words[word] >> bit & 1)
    return Machine(prefix, emulator, cpu, midr, features, found[4].decode())


def build_counter(emulator: Emulator, folder: Path) -> Path:
    """Compile the plugin that counts, for this qemu, into a folder; return its path.

    Raises
    ------
    CountError
        If this qemu takes no plugins, or there is no C compiler.
    """
    if not emulator.plugins:
        raise CountError(
            f"{emulator.program.name} {emulator.version} was built without plugins, so that no instructions can be "
            "counted: use one built with them, such as Debian 12's qemu-user"
        )
    target = folder / "counter.so"
    # The functions that it uses are the same throughout; qemu 9 refuses plugins that name version 1.
    version = 1 if int(emulator.version.split(".")[0]) < 9 else 2
    options = ["-O2", "-shared", "-fPIC", f"-DPLUGIN_VERSION={version}"]
    with importlib.resources.as_file(_resource("counter.c")) as source:
        _compile(["cc", *options, "-o", str(target), str(source)], "the plugin that counts instructions", CountError)
    return target


def _run(machine: Machine, arguments: Sequence[str], pixels: bytes, counter: Path | None) -> tuple[bytes, int]:
    """Run the guest once; return what it wrote, and its executed instructions if there is a counter (else 0)."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        _furnish(root, machine)
        plugin = []
        if counter:
            # By a short name: qemu splits this argument at commas, which a folder's name may have.
            (root / "counter.so").symlink_to(counter)
            plugin = ["-plugin", "./counter.so", "-d", "plugin", "-D", "counted"]
        guest = [str(machine.prefix.folder / "guest"), *arguments]
        done = subprocess.run(
            [str(machine.emulator.program), "-cpu", machine.cpu, "-L", ".", *plugin, *guest],
            # This machine's LD_LIBRARY_PATH and QEMU_* are not meant for the guest.
            cwd=root, env={"LC_ALL": "C"}, input=pixels, capture_output=True,
        )
        if done.returncode:
            reason = _last_line(done.stderr.decode(errors="replace"))
            if done.returncode < 0:
                reason = f"{signal.Signals(-done.returncode).name}; {reason}"
            # Without the plugin it has run before: what was found then shall not be lost.
            kind = CountError if counter else DeviceError
            raise kind(f"the guest program died under {machine.emulator.name} -cpu {machine.cpu} ({reason})")
        return done.stdout, _counted(root / "counted", machine) if counter else 0


def _furnish(root: Path, machine: Machine) -> None:
    """What the guest sees of a Linux system where the host's own files would mislead it.

    LiteRT's XNNPACK reads the core's identity from ``/proc/cpuinfo`` (and fails where that describes no ARM core),
    and the number of cores from ``/sys``.
    """
    (root / "lib").symlink_to(machine.prefix.folder / "lib")
    (root / "proc").mkdir()
    lines = {
        "processor": "0", "Features": " ".join(machine.features), "CPU implementer": f"0x{machine.midr >> 24:02x}",
        "CPU architecture": "8", "CPU variant": f"0x{machine.midr >> 20 & 15:x}",
        "CPU part": f"0x{machine.midr >> 4 & 0xfff:03x}", "CPU revision": str(machine.midr & 15),
    }
    (root / "proc" / "cpuinfo").write_text("".join(f"{key}\t: {value}\n" for key, value in lines.items()) + "\n")
    cores = root / "sys" / "devices" / "system" / "cpu"
    cores.mkdir(parents=True)
    for file in ("possible", "present", "online", "kernel_max"):
        (cores / file).write_text("0\n")


def _counted(log: Path, machine: Machine) -> int:
    found = re.search(r"^instructions: (\d+)$", log.read_text() if log.is_file() else "", re.MULTILINE)
    if not found:
        raise CountError(f"{machine.emulator.name} ran the plugin that counts instructions, and no count came back")
    return int(found[1])


# Measuring ---------------------------------------------------------------------------------------


def lr_image(name: str, height: int, width: int) -> NDArray[np.uint8]:
    """An LR (H, W, 3) uint8 image: scikit-image's "astronaut", resized, or "random" values of a fixed seed.

    Raises
    ------
    DeviceError
        If there is no such image.
    """
    if name == "random":
        return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if name != "astronaut":
        raise DeviceError(f"no image is called {name}; there are {', '.join(IMAGES)}")
    import skimage.data

    small = Image.fromarray(skimage.data.astronaut()).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(small)


def compare(
    machine: Machine, model: Path, *, kernels: Kernels, image: str, size: tuple[int, int]
) -> list[Comparison]:
    """Run a model on one image there and here, (height, width) in LR pixels.

    The reference is this machine's XNNPACK; for the guest's built-in kernels also this machine's built-in ones.

    Raises
    ------
    DeviceError
        If the guest dies, or the model is not one with uint8 pixels in and out.
    ModelError
        If this machine cannot run the model.
    """
    lr = lr_image(image, *size)
    here = {path: _upscaler(model, path).upscale(lr, tile=None) for path in _MODES}
    hr = here["xnnpack"]
    pixels, _ = _run(machine, _arguments(model, kernels, size, hr.size, 1), lr.tobytes(), None)
    there = np.frombuffer(pixels, np.uint8)
    if there.size != hr.size:
        raise DeviceError(f"{model}: the guest wrote {there.size} values, not {hr.size}")
    own = _largest(here["xnnpack"], here["builtin"])
    references: tuple[Kernels, ...] = ("xnnpack",) if kernels == "xnnpack" else ("xnnpack", "builtin")
    return [
        Comparison(kernels, reference, image, size, _largest(there.reshape(hr.shape), here[reference]), own)
        for reference in references
    ]


def count(
    machine: Machine, counter: Path, model: Path, *, kernels: Kernels, size: tuple[int, int], runs: int = 3
) -> Counts:
    """Executed instructions of whole guest runs with 1 to `runs` invokes on the natural image.

    Raises
    ------
    DeviceError
        As `compare`; CountError if the plugin gives no count.
    """
    lr = lr_image("astronaut", *size)
    out_bytes = lr.size * _upscaler(model, "xnnpack").scale ** 2
    totals = tuple(
        _run(machine, _arguments(model, kernels, size, out_bytes, invokes), lr.tobytes(), counter)[1]
        for invokes in range(1, runs + 1)
    )
    return Counts(kernels, size, out_bytes // 3, totals)


def measure(
    machines: Sequence[Machine], models: Sequence[Path], kernels: Sequence[Kernels], sizes: Sequence[tuple[int, int]],
    *, progress: bool = False,
) -> Findings:
    """Compare every model on every core by both images at the first size; count instructions at all sizes.

    Nothing is counted where the guest's output is wrong (`Comparison.sound`): such a run says nothing of the model.
    What keeps instructions from being counted at all stands in the result, beside the comparisons.

    Raises
    ------
    DeviceError, ModelError
        As `compare`.
    """
    found = Findings([], [])
    with tempfile.TemporaryDirectory() as name:
        counter = None
        try:
            counter = build_counter(machines[0].emulator, Path(name))
        except CountError as error:
            found.not_counted = error
        tasks = list(itertools.product(machines, models, kernels))
        for machine, model, path in tqdm(tasks, unit="model", disable=not progress):
            compared = [
                each for image in IMAGES for each in compare(machine, model, kernels=path, image=image, size=sizes[0])
            ]
            found.compared += [(machine, model, each) for each in compared]
            if not counter or not all(each.sound for each in compared if each.reference == "xnnpack"):
                continue
            try:
                for size in sizes:
                    found.counted.append((machine, model, count(machine, counter, model, kernels=path, size=size)))
            except CountError as error:
                counter, found.not_counted = None, error
    return found


def _comparison_records(found: Comparison, machine: Machine, model: Path, context: Context) -> list[Record]:
    reference = f"{found.reference} on {platform.machine()}"
    conditions = _conditions(machine, found.kernels, found.size) | {"image": found.image, "reference": reference}
    digest = sha256(model)
    return [
        context.record("same-bits", model.stem, float(found.same), "1", conditions, model_sha256=digest),
        context.record("largest-difference", model.stem, found.largest, "levels", conditions, model_sha256=digest),
    ]


def _count_record(found: Counts, machine: Machine, model: Path, context: Context) -> Record:
    mean, least, greatest = found.per_pixel
    return context.record(
        "guest-instructions", model.stem, mean, "instructions per output pixel",
        _conditions(machine, found.kernels, found.size), model_sha256=sha256(model),
        count=len(found.totals) - 1,
        spread=(least, greatest), spread_is="least and greatest difference between runs with one invoke more",
    )


def _upscaler(model: Path, kernels: Kernels) -> Upscaler:
    upscaler = Upscaler(model, kernels=kernels)
    if upscaler.input_dtype != np.uint8 or upscaler.output_quantization != (1.0, 0):
        raise DeviceError(f"{model}: the guest runs models with uint8 pixels in and out")
    return upscaler


def _arguments(model: Path, kernels: Kernels, size: tuple[int, int], out_bytes: int, invokes: int) -> list[str]:
    return [str(model.resolve()), *map(str, (_MODES[kernels], *size, out_bytes, invokes))]


def _largest(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    return int(np.abs(a.astype(np.int16) - b).max())


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _conditions(machine: Machine, kernels: Kernels, size: tuple[int, int]) -> dict[str, str]:
    return {
        "cpu": machine.cpu, "kernels": kernels, "size": _text(size), "emulator": machine.emulator.name,
        "litert": machine.prefix.litert,
    }


def _context(context: Context, machine: Machine) -> Context:
    versions = {**context.versions, "qemu-aarch64": machine.emulator.version, "glibc-aarch64": machine.libc}
    return replace(context, device=machine.device, versions=versions)
