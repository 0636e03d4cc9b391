"""How long models take on a phone with Android: its CPU, its GPU and its NNAPI, through `adb`.

The timing itself is TensorFlow's: its command `benchmark_model` is pushed to the phone with the models, run there,
and its report is read. Nothing is installed, and what was pushed is removed again.

Settings are run in turn, and the models within each, so that the models of one setting are timed at nearly one
temperature. The temperature before and after every run stands in its record. A delegate that refuses a model, or
that takes no part of it, gives no record: the time would be the CPU's.

Sources: the report's form is that of ``tensorflow/lite/tools/benchmark`` (`benchmark_model.cc` and
`benchmark_tflite_model.cc`) and ``stats_calculator.h``, from 2018 on. TensorFlow 2.20 adds percentiles to it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from abpn_lib import datasets
from abpn_lib.files import DeviceError, sha256
from abpn_lib.results import Context, Record
from abpn_lib.timing import latency

__all__ = [
    "ADDRESS", "MODELS",  "Phone", "Report", "Run", "Setting", "benchmark_model", "find", "measure",
    "not_a_phone", "read_report", "record", "settings",
]

ADDRESS = (
    "https://storage.googleapis.com/tensorflow-nightly-public/prod/tensorflow/release/lite/tools/nightly/latest/"
    "android_aarch64_benchmark_model"
)
"""Where TensorFlow publishes `benchmark_model` for 64-bit phones. It is built anew every night: no hash is fixed."""

MODELS = ("fsrcnn-fp32", "fsrcnn-int8-ptq", "abpn-fp32", "abpn-int8-ptq")
"""The shipped models that are timed when none is named: Table 3's two networks."""

Kernels = Literal["xnnpack", "builtin", "gpu", "nnapi"]
Kind = Literal["android", "android-emulator", "fake"]

_DELEGATES: dict[str, tuple[str, str]] = {
    # The delegate's name in the report, and the flags that ask for it.
    "xnnpack": ("XNNPACK", "--use_xnnpack=true"),
    "builtin": ("", "--use_xnnpack=false"),
    "gpu": ("GPU", "--use_gpu=true"),
    # Without the second flag NNAPI may run all of it with its own reference code on the CPU.
    "nnapi": ("NNAPI", "--use_nnapi=true --disable_nnapi_cpu=true"),
}
_THREADS = (1, 2, 4, 8)
_SECONDS = {"ask": 60, "push": 300, "run": 900}



@dataclass(frozen=True)
class Phone:
    """A phone that answers. `kind` tells a phone from an emulator and from the fake of the tests."""

    serial: str
    model: str
    soc: str
    android: str
    abi: str
    cores: int
    governor: str
    kind: Kind

    @property
    def name(self) -> str:
        """The `device` of its records. The serial number is left out: it is nobody else's business."""
        marks = {"android": "phone", "android-emulator": "NOT A PHONE, an emulator", "fake": "NOT A PHONE, a fake"}
        cores = f"{self.cores} core{'s' if self.cores > 1 else ''}"
        return (
            f"{marks[self.kind]}: {self.model}, SoC {self.soc}, Android {self.android}, {self.abi}, {cores}, "
            f"CPU governor {self.governor}"
        )


@dataclass(frozen=True)
class Setting:
    """What a model is run on: the CPU with one of two kernel paths, or a delegate; threads are the CPU's."""

    kernels: Kernels
    threads: int

    @property
    def name(self) -> str:
        """The setting in a few letters: "CPU x4", "GPU", "NNAPI"."""
        return f"CPU x{self.threads}" if self.kernels in ("xnnpack", "builtin") else self.kernels.upper()


@dataclass(frozen=True)
class Report:
    """What `benchmark_model` reports of one run.

    `value_ms` is the median, or in older builds, which report none, the mean; `low_ms` to `high_ms` are the 5th and
    95th percentile, or the least and greatest run: `spread_is` says which. `taken` names the delegates that took
    part of the graph, with "wholly", "partly", or "" where an older build does not tell.
    """

    count: int
    value_ms: float
    low_ms: float
    high_ms: float
    spread_is: str
    taken: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """One model under one setting: its report, or why there is none; temperatures where the phone tells them."""

    subject: str
    setting: Setting
    report: Report | None
    refusal: str
    before: str
    after: str


# The phone


def find(serial: str | None = None) -> Phone:
    """The phone of that serial number (else the one ANDROID_SERIAL names, else the only one there is).

    Raises
    ------
    DeviceError
        If adb is not installed, there is no such phone, there are several, or it cannot be used as it is.
    """
    serial = serial or os.environ.get("ANDROID_SERIAL") or None
    states = _devices()
    listed = ", ".join(f"{name} ({state})" for name, (state, _) in states.items())
    if not states:
        raise DeviceError("adb finds no phone: plug one in, and switch USB debugging on in its developer options")
    if serial is None and len(states) > 1:
        raise DeviceError(f"adb finds several phones, {listed}: name one, as in --device android:{next(iter(states))}")
    serial = serial or next(iter(states))
    if serial not in states:
        raise DeviceError(f"adb finds no phone of the serial number {serial!r}; there are {listed}")
    state, remedy = states[serial]
    if state != "device":
        raise DeviceError(f'{serial} has the state "{state}": {remedy}')
    return _described(serial)


def _devices() -> dict[str, tuple[str, str]]:
    """Every serial number with its state and what to do about it."""
    done = _adb("devices", "-l")
    if done.returncode:
        raise DeviceError(f"adb cannot list phones ({_reason(done)}): try `adb kill-server`")
    found = {}
    for line in done.stdout.splitlines():
        match = re.match(r"(\S+)\s+(no permissions|[a-z]+)(\s|$)", line)
        if match and not line.startswith(("*", "List of devices")):
            state = match[2]
            found[match[1]] = (state, _REMEDIES.get(state, "start Android on it, and try again"))
    return found


_ACCEPT = "accept the prompt on the phone that asks to allow USB debugging, and try again"
_REMEDIES = {
    "unauthorized": _ACCEPT,
    "authorizing": _ACCEPT,
    "offline": "unplug it, plug it in again, and wake it up",
    "no permissions": "give your user the right to open it (udev rules; Debian's android-sdk-platform-tools-common)",
}


def _described(serial: str) -> Phone:
    properties = dict(re.findall(r"^\[(.+?)\]: \[(.*)\]\s*$", _ask(serial, "getprop"), re.MULTILINE))

    def known(*names: str) -> str:
        return next((properties[name].strip() for name in names if properties.get(name, "").strip()), "unknown")

    maker, model, release = (
        known(f"ro.{name}") for name in ("product.manufacturer", "product.model", "build.version.release")
    )
    if "unknown" in (model, release):
        # A time that names no device is worth nothing.
        raise DeviceError(
            f"{serial} does not say what it is (ro.product.model, ro.build.version.release): name an Android phone"
        )
    named = model if maker == "unknown" or model.lower().startswith(maker.lower()) else f"{maker} {model}"
    return Phone(
        serial, named, known("ro.soc.model", "ro.board.platform", "ro.hardware"), release,
        known("ro.product.cpu.abi"), _cores(_ask(serial, "cat /sys/devices/system/cpu/present")),
        _ask(serial, "cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown", _kind(properties),
    )


def _kind(properties: Mapping[str, str]) -> Kind:
    if "fake adb" in properties.get("ro.product.model", "").lower():
        return "fake"
    emulated = "1" in (properties.get("ro.kernel.qemu"), properties.get("ro.boot.qemu"))
    return "android-emulator" if emulated or properties.get("ro.hardware") in ("goldfish", "ranchu") else "android"


def not_a_phone(record: Record) -> bool:
    """Whether a record of this module was made on an emulator or on the tests' fake: such a one is never shipped."""
    return record.get("device-kind") in ("android-emulator", "fake") or "NOT A PHONE" in record.context.device


def _cores(present: str) -> int:
    """How many CPUs a list such as "0-3,6" names; 1 where it cannot be read."""
    spans = re.findall(r"(\d+)(?:-(\d+))?", present)
    return max(sum(int(last or first) - int(first) + 1 for first, last in spans), 1)


def _temperature(serial: str) -> str:
    """The battery's temperature, else that of the first thermal zone; '' where neither is told."""
    battery = re.search(r"^\s*temperature: (-?\d+)\s*$", _ask(serial, "dumpsys battery"), re.MULTILINE)
    if battery:
        return f"battery {int(battery[1]) / 10:.1f} °C"
    zone = re.fullmatch(r"-?\d+", _ask(serial, "cat /sys/class/thermal/thermal_zone0/temp"))
    if not zone:
        return ""
    # Thousandths of a degree, as the kernel documents it; some makers give degrees.
    degrees = int(zone[0]) / (1000 if abs(int(zone[0])) > 200 else 1)
    return f"thermal zone {degrees:.1f} °C"


# adb


def _adb(*words: str, seconds: float = _SECONDS["ask"]) -> subprocess.CompletedProcess[str]:
    program = shutil.which("adb")
    if program is None:
        raise DeviceError("adb is not installed: install Debian's package adb, or Android's platform-tools")
    try:
        return subprocess.run(
            [program, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=seconds, check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"adb {' '.join(words)[:80]} gave no answer in {seconds:g} s: wake the phone up") from None


_END = "abpn-exit="


def _shell(serial: str, command: str, doing: str, *, seconds: float = _SECONDS["ask"]) -> tuple[int, str]:
    """Run a command on the phone; return its exit status and its output.

    The status is printed behind the output: adb passes none on from phones before Android 7, and where a phone leaves
    in the middle of a command, adb ends with status 0 and says nothing. Then the mark is missing.
    """
    done = _adb("-s", serial, "shell", f"{command}; echo {_END}$?", seconds=seconds)
    output, mark, status = done.stdout.rpartition(_END)
    if not mark or not status.strip().isdigit():
        raise _gone(serial, doing, done)
    return int(status), output.replace("\r", "")


def _ask(serial: str, command: str) -> str:
    """What a command prints, or '' where the phone does not have it or does not let it."""
    status, output = _shell(serial, f"{command} 2>/dev/null", "it was asked what it is")
    return "" if status else output.strip()


def _gone(serial: str, doing: str, done: subprocess.CompletedProcess[str]) -> DeviceError:
    reason = _reason(done)
    told = f" ({reason})" if "error" in reason or "adb" in reason else ""
    return DeviceError(f"{serial} went away while {doing}{told}: plug it in, keep it awake, and start again")


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The line in which adb says what is wrong: by its version on standard error or, for a push, on standard output."""
    lines = [line.strip() for line in (*done.stdout.splitlines(), *done.stderr.splitlines()) if line.strip()]
    told = [line for line in lines if not line.startswith("*")]
    return next((line for line in told if "error" in line.lower()), told[-1] if told else "it says nothing")


def _push(serial: str, source: Path, target: str, name: str) -> None:
    done = _adb("-s", serial, "push", str(source), target, seconds=_SECONDS["push"])
    doing = f"{name} was pushed to it"
    if done.returncode:
        reason = _reason(done)
        if "no space left" in reason.lower():
            raise _full(serial, name)
        there = _adb("-s", serial, "get-state").stdout.strip() == "device"
        # It may be there again already.
        if not there or re.search(r"feature set|from device|offline|' not found|no devices", reason):
            raise _gone(serial, doing, done)
        raise DeviceError(f"{name} could not be pushed to {serial} ({reason})")
    # Not every adb notices that a disk is full.
    _, size = _shell(serial, f"wc -c < {target}", doing)
    if size.strip() != str(source.stat().st_size):
        raise DeviceError(f"{name} did not arrive whole on {serial}: free some space on it, and start again")


def _full(serial: str, name: str) -> DeviceError:
    return DeviceError(f"no space is left on {serial} for {name}: free some, and start again")


@contextmanager
def _folder(serial: str) -> Iterator[str]:
    """A folder of our own on the phone, which is removed whatever happens, if the phone still answers."""
    folder = f"/data/local/tmp/abpn-{secrets.token_hex(6)}"
    # A run that was interrupted here goes on there. The brackets keep the pattern from finding its own command.
    tidy = f"pkill -f '[/]{folder[1:]}/benchmark_model' 2>/dev/null; rm -rf {folder}"
    try:
        status, output = _shell(serial, f"mkdir {folder} 2>&1", "a folder was made on it")
        if "no space left" in output.lower():
            raise _full(serial, "a folder")
        if status:
            raise DeviceError(f"{serial} lets us make no folder in /data/local/tmp ({output.strip()})")
        yield folder
    except BaseException as error:
        try:
            _shell(serial, tidy, "its folder was removed")
        except DeviceError as second:
            if isinstance(error, DeviceError):
                raise DeviceError(f"{error} ({folder} stays behind on it)") from second
        raise
    _shell(serial, tidy, f"{folder} was removed from it")


# The tool


def benchmark_model(
    path: Path | None = None, digest: str | None = None, *, root: Path | None = None, address: str = ADDRESS,
) -> Path:
    """The tool that runs on the phone: a file, checked if a hash is given; or by its hash, downloaded once.

    Parameters
    ----------
    path
        A `benchmark_model` for the phone's processor.
    digest
        Its sha256. Without a path, the file at `address` is fetched into the data folder `root`
        (`datasets.data_root`) and kept only if it has this hash.

    Raises
    ------
    DeviceError
        If neither is given, the file is missing, or it has another hash.
    DataError
        If it cannot be downloaded, or the download has another hash (both are named).
    """
    if digest is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise DeviceError(f"--benchmark-sha256 {digest!r} is not a sha256: 64 hexadecimal digits are needed")
    if path is None and digest is None:
        raise DeviceError(
            "benchmark_model is needed: name the file with --benchmark-model PATH, or give --benchmark-sha256 HASH, "
            f"and {address} is downloaded and used if it has that hash"
        )
    if path is None:
        assert digest is not None
        digest = digest.lower()
        entry = datasets.Entry(f"tools/{digest[:16]}/benchmark_model", digest, address)
        tool = datasets.Dataset("benchmark_model", "TensorFlow's benchmark_model", "Apache License 2.0", (entry,))
        (path,) = datasets.fetch(tool, root, progress=False)
    if not path.is_file():
        raise DeviceError(f"--benchmark-model {path} is not a file")
    found = sha256(path)
    if digest is not None and found != digest.lower():
        raise DeviceError(f"--benchmark-model {path} has sha256 {found}, not {digest.lower()}: it was not used")
    return path


def settings(
    phone: Phone, threads: int | None = None, kernels: Literal["xnnpack", "builtin"] = "xnnpack"
) -> list[Setting]:
    """The CPU with 1, 2, 4 and 8 threads (as many as there are cores; or with `threads` alone), the GPU, NNAPI."""
    counts = [threads] if threads else [count for count in _THREADS if count <= phone.cores]
    delegates: tuple[Kernels, ...] = ("gpu", "nnapi")
    return [*(Setting(kernels, count) for count in counts), *(Setting(delegate, 1) for delegate in delegates)]


def measure(
    phone: Phone, tool: Path, models: Mapping[str, bytes], settings: Sequence[Setting], *, rounds: int = 50
) -> Iterator[Run]:
    """Run every model under every setting, setting by setting, and yield each run as it ends.

    Parameters
    ----------
    tool
        `benchmark_model` for the phone.
    models
        Each subject's .tflite, of one size (`latency.fixed_copy`).
    rounds
        The least number of timed runs; the tool repeats for a second at least, and stops after 150 seconds.

    Raises
    ------
    DeviceError
        If the phone goes away or has no space left, or the tool cannot run on it. Runs that were yielded hold.
    """
    with _folder(phone.serial) as folder:
        _push(phone.serial, tool, f"{folder}/benchmark_model", "benchmark_model")
        _shell(phone.serial, f"chmod 755 {folder}/benchmark_model", "benchmark_model was made executable")
        with tempfile.TemporaryDirectory() as scratch:
            for number, (subject, content) in enumerate(models.items()):
                copy = Path(scratch) / f"{number}.tflite"
                copy.write_bytes(content)
                _push(phone.serial, copy, f"{folder}/{number}.tflite", subject)
        before = _temperature(phone.serial)
        for setting in settings:
            for number, subject in enumerate(models):
                words = _command(folder, f"{folder}/{number}.tflite", setting, rounds)
                doing = f"{subject} ran on its {setting.name}"
                status, output = _shell(phone.serial, words, doing, seconds=_SECONDS["run"])
                report, refusal = _judged(phone, setting, status, output)
                after = _temperature(phone.serial)
                yield Run(subject, setting, report, refusal, before, after)
                before = after


def _command(folder: str, model: str, setting: Setting, rounds: int) -> str:
    flags = _DELEGATES[setting.kernels][1]
    return (
        f"{folder}/benchmark_model --graph={model} --num_threads={setting.threads} --num_runs={rounds} "
        f"{flags} 2>&1"
    )


def _judged(phone: Phone, setting: Setting, status: int, output: str) -> tuple[Report | None, str]:
    """The report of a run, or why there is none."""
    if "STARTING!" not in output:
        # It says so first of all: without it, the program never ran.
        lines = output.strip().splitlines() or [f"it ended with status {status}"]
        raise DeviceError(
            f"this benchmark_model cannot run on {phone.serial}, which is {phone.abi} ({lines[-1].strip()}): "
            "name one that was built for it"
        )
    report = read_report(output) if status == 0 else None
    if report is None:
        return None, _why(status, output)
    delegate = _DELEGATES[setting.kernels][0]
    if setting.kernels in ("gpu", "nnapi") and delegate not in report.taken:
        return None, _why(status, output)
    if setting.kernels == "nnapi" and re.search(r"accelerators available: \[nnapi-reference\]", output):
        return None, "NNAPI has no accelerator here, only its reference code for the CPU"
    return report, ""


_NOT_WHY = ("Benchmarking failed", "Restored original execution plan")


def _why(status: int, output: str) -> str:
    """The first line of a report that says what went wrong."""
    lines = [_PREFIX.sub("", line.strip()) for line in output.splitlines()]
    errors = [_PREFIX.sub("", line.strip()) for line in output.splitlines() if re.search("ERROR|FATAL", line)]
    others = [line for line in lines if re.search(r"(?i)\bfailed\b|unsupported|not be executed|fault|killed", line)]
    told = next((line for line in (*errors, *others) if line and not line.startswith(_NOT_WHY)), "")
    ended = f"it ended with status {status}" if status else "it reports no time"
    return told or ended


# The report

_PREFIX = re.compile(r"^(?:[A-Z]/?\s*tflite\s*:\s*)?(?:(?:VERBOSE|INFO|WARN|WARNING|ERROR|FATAL):\s*)?")
_NUMBER = r"([\d.]+(?:e[+-]?\d+)?)"
_APPLIED = re.compile(
    r"(?:Explicitly a|A)pplied (\w+) delegate(?:, and the model graph will be (\w+) executed|\.?\s*$)",
    re.MULTILINE,
)
_WHOLLY = {"completely": "wholly", "fully": "wholly", "partially": "partly"}


def read_report(output: str) -> Report | None:
    """What `benchmark_model` printed, read; None if it did not come to the end.

    The runs' own line is the last one with ``count=``; the one before it is the warm-up's.
    """
    end = re.search(r"nference timings in us:", output)
    counted = re.findall(r"\b(count=\d+ .*)", output[:end.start()]) if end else []
    if not counted:
        return None
    line = counted[-1]
    of = {name: float(number) for name, number in re.findall(rf"(\w+)={_NUMBER}", line)}
    if "avg" not in of and "curr" in of:
        # One run, or all of one length: only that length is printed.
        of |= {"avg": of["curr"], "min": of["curr"], "max": of["curr"]}
    if not {"avg", "min", "max"} <= of.keys() or of["count"] < 1 or of["avg"] <= 0:
        return None
    if {"p5", "median", "p95"} <= of.keys():
        value, low, high, spread = of["median"], of["p5"], of["p95"], "5th and 95th percentile of the runs"
    else:
        value, low, high, spread = of["avg"], of["min"], of["max"], "least and greatest run; the value is their mean"
    taken = {name: _WHOLLY.get(part, "") for name, part in _APPLIED.findall(output.replace("\r", ""))}
    return Report(int(of["count"]), value / 1000, low / 1000, high / 1000, spread, taken)


def record(
    run: Run, phone: Phone, context: Context, *, size: str, tool_sha256: str, model_sha256: str = "",
    conditions: Mapping[str, str] | None = None,
) -> Record:
    """The record (latency, ms) of a run that was not refused.

    `context` gives command, commit and date; device and versions are the phone's. `size` is the input's, width x
    height; `model_sha256` is the hash of the model before it was given that size. The kernels of a run on the CPU
    are those the report names: a model of which XNNPACK took nothing ran on the built-in ones.

    Raises
    ------
    DeviceError
        If the run was refused.
    """
    report, kernels = run.report, run.setting.kernels
    if report is None:
        raise latency.DeviceError(f"{run.subject} on {run.setting.name} has no time ({run.refusal})")
    delegate = _DELEGATES[kernels][0]
    kernels = "builtin" if kernels == "xnnpack" and delegate not in report.taken else kernels
    told = {
        "size": size, "threads": run.setting.threads, "kernels": kernels, "device-kind": phone.kind,
        "delegated": report.taken.get(delegate, ""), "before": run.before, "after": run.after, **(conditions or {}),
    }
    library = {name: number for name, number in context.versions.items() if name == "abpn-lib"}
    there = replace(
        context, device=phone.name,
        versions={**library, "android": phone.android, "benchmark_model": f"sha256 {tool_sha256}"},
    )
    return there.record(
        "latency", run.subject, report.value_ms, "ms", **{key: text for key, text in told.items() if text},
        count=report.count, spread=(report.low_ms, report.high_ms), spread_is=report.spread_is,
        model_sha256=model_sha256,
    )
