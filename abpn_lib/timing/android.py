"""How long models take on a phone with Android: its CPU, its GPU and its NNAPI, through `adb`.

TensorFlow's own command `benchmark_model` does the timing: it is pushed to the phone with the models, run there, and
its report is read. Nothing is installed, and what was pushed is removed again.

Settings are run in turn, and the models within each, so that the models of one setting are timed at nearly one
temperature. The temperature before and after every run stands in its record. A delegate that refuses a model, or
that takes no part of it, gives no record: the time would be the CPU's.

Sources: the report's form is that of ``tensorflow/lite/tools/benchmark`` (`benchmark_model.cc` and
`benchmark_tflite_model.cc`) and ``stats_calculator.h``, from 2018 on. TensorFlow 2.20 adds percentiles to it.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from abpn_lib.files import DeviceError, InputError, sha256
from abpn_lib.results import Context, Record
from abpn_lib.tflite.interpreter import Kernels as CpuKernels
from abpn_lib.timing import latency
from abpn_lib.timing.adb import Adb, Shell, devices, run

ADDRESS = (
    "https://storage.googleapis.com/tensorflow-nightly-public/prod/tensorflow/release/lite/tools/nightly/latest/"
    "android_aarch64_benchmark_model"
)
"""Where TensorFlow publishes `benchmark_model` for 64-bit phones. It is built anew every night: no hash is fixed."""

MODELS = ("fsrcnn-fp32", "fsrcnn-int8-ptq", "abpn-fp32", "abpn-int8-ptq")
"""The shipped models that are timed when none is named: Table 3's two networks."""

Kernels = CpuKernels | Literal["gpu", "nnapi"]
Report = tuple[dict[str, Any], dict[str, str]]
"""What `read_report` gives."""

_DELEGATES: dict[str, tuple[str, str]] = {
    # The delegate's name in the report, and the flags that ask for it.
    "xnnpack": ("XNNPACK", "--use_xnnpack=true"),
    "builtin": ("", "--use_xnnpack=false"),
    "gpu": ("GPU", "--use_gpu=true"),
    # Without the second flag NNAPI may run all of it with its own reference code on the CPU.
    "nnapi": ("NNAPI", "--use_nnapi=true --disable_nnapi_cpu=true"),
}


@dataclass(frozen=True)
class Phone:
    """A phone that answers on its `shell`. `kind` tells a phone from an emulator and from the fake of the tests.

    `name` is the `device` of its records. The serial number is left out, since it identifies the owner's device.
    """

    shell: Shell
    name: str
    android: str
    abi: str
    cores: int
    kind: str


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
class Run:
    """One model under one setting: its record, or why there is none."""

    subject: str
    setting: Setting
    record: Record | None
    refusal: str = ""

    @property
    def line(self) -> str:
        """The run in one line for a terminal."""
        if self.record is None:
            return f"{self.subject} does not run on {self.setting.name}: {self.refusal}"
        value, (low, high) = self.record.value, self.record.spread or (self.record.value, self.record.value)
        where = "  ".join(str(self.record.columns[key]) for key in ("delegated", "after") if self.record.get(key))
        return f"{self.subject:24} {self.setting.name:7} {value:9.2f} ms  [{low:.2f}, {high:.2f}]  {where}"


# The phone


def find(serial: str | None = None, *, adb: Adb = run) -> Phone:
    """The phone of that serial number (else the one ANDROID_SERIAL names, else the only one there is).

    Raises `DeviceError` if adb is not installed, there is no such phone, there are several, or it cannot be used as
    it is.
    """
    serial = serial or os.environ.get("ANDROID_SERIAL") or None
    states = devices(adb)
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
    return _described(Shell(serial, adb))


def _described(shell: Shell) -> Phone:
    properties = dict(re.findall(r"^\[(.+?)\]: \[(.*)\]\s*$", shell.ask("getprop"), re.MULTILINE))

    def known(*names: str) -> str:
        found = (properties.get(f"ro.{name}", "").strip() for name in names)
        return next(filter(None, found), "unknown")

    maker, model, release = known("product.manufacturer"), known("product.model"), known("build.version.release")
    if "unknown" in (model, release):
        # A time that names no device is worth nothing.
        raise DeviceError(f"{shell.serial} does not say what it is (ro.product.model, ro.build.version.release): "
                          "name an Android phone")
    named = model if maker == "unknown" or model.lower().startswith(maker.lower()) else f"{maker} {model}"
    # A list of CPUs such as "0-3,6".
    spans = re.findall(r"(\d+)(?:-(\d+))?", shell.ask("cat /sys/devices/system/cpu/present"))
    cores = max(sum(int(last or first) - int(first) + 1 for first, last in spans), 1)
    governor = shell.ask("cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown"
    kind, abi, soc = _kind(properties), known("product.cpu.abi"), known("soc.model", "board.platform", "hardware")
    name = (f"{_MARKS[kind]}: {named}, SoC {soc}, Android {release}, {abi}, {cores} core{'s' if cores > 1 else ''}, "
            f"CPU governor {governor}")
    return Phone(shell, name, release, abi, cores, kind)


# The kinds of phone, and how each is called in the records.
_MARKS = {"android": "phone", "android-emulator": "NOT A PHONE, an emulator", "fake": "NOT A PHONE, a fake"}


def _kind(properties: Mapping[str, str]) -> str:
    if "fake adb" in properties.get("ro.product.model", "").lower():
        return "fake"
    emulated = "1" in (properties.get("ro.kernel.qemu"), properties.get("ro.boot.qemu"))
    return "android-emulator" if emulated or properties.get("ro.hardware") in ("goldfish", "ranchu") else "android"


def not_a_phone(record: Record) -> bool:
    """Whether a record was made on an emulator or on the tests' fake: such a one is never shipped."""
    return record.get("device-kind") in ("android-emulator", "fake") or "NOT A PHONE" in record.context.device


def _temperature(shell: Shell) -> str:
    """The battery's temperature, else that of the first thermal zone; '' where the phone gives neither."""
    battery = re.search(r"^\s*temperature: (-?\d+)\s*$", shell.ask("dumpsys battery"), re.MULTILINE)
    if battery:
        return f"battery {int(battery[1]) / 10:.1f} °C"
    zone = re.fullmatch(r"-?\d+", shell.ask("cat /sys/class/thermal/thermal_zone0/temp"))
    # Thousandths of a degree, as the kernel documents it; some makers give degrees.
    return f"thermal zone {int(zone[0]) / (1000 if abs(int(zone[0])) > 200 else 1):.1f} °C" if zone else ""


# The tool


def benchmark_model(path: Path | None) -> Path:
    """The tool that runs on the phone. Raises `InputError` if no file is named, or it is not there."""
    if path is None:
        raise InputError(f"benchmark_model is needed: download {ADDRESS} and name the file with --benchmark-model PATH")
    if not path.is_file():
        raise InputError(f"--benchmark-model {path} is not a file")
    return path


def settings(phone: Phone, threads: int | None = None, kernels: CpuKernels = "xnnpack") -> list[Setting]:
    """The CPU with 1, 2, 4 and 8 threads (as many as there are cores; or with `threads` alone), the GPU, NNAPI."""
    counts = [threads] if threads else [count for count in (1, 2, 4, 8) if count <= phone.cores]
    return [*(Setting(kernels, count) for count in counts), Setting("gpu", 1), Setting("nnapi", 1)]


def follow(
    phone: Phone, tool: Path, files: Mapping[str, Path], chosen: Sequence[Setting], context: Context, *,
    size: str, channels: int | None = None, rounds: int = 50,
) -> Generator[Run, None, None]:
    """Run every model under every setting, setting by setting, and yield each run as it ends.

    `tool` is `benchmark_model` for the phone; `files` has each subject's .tflite. Of `context` the records keep command
    and date; device and versions are the phone's, and its serial number is taken out. `size` is the input's width x
    height, which models of any size are given; `channels` are for meta-nodes alone. At least `rounds` runs are timed;
    the tool repeats for a second at least, and stops after 150 seconds.

    Raises `DeviceError` if the phone goes away or has no space left, the tool cannot run on it, or no model could.
    Runs that were yielded hold.
    """
    shell, ran = phone.shell, False
    versions = {"android": phone.android, "benchmark_model": f"sha256 {sha256(tool)}"}
    there = replace(
        context, device=phone.name, command=context.command.replace(f"android:{shell.serial}", "android"),
        versions={key: text for key, text in context.versions.items() if key == "abpn-lib"} | versions,
    )
    with shell.folder() as folder:
        _push(shell, folder, tool, files, size if channels is None else None)
        before = _temperature(shell)
        for setting in chosen:
            for number, (subject, path) in enumerate(files.items()):
                report = _run(phone, folder, number, subject, setting, rounds)
                after = _temperature(shell)
                if isinstance(report, str):
                    yield Run(subject, setting, None, report)
                else:
                    ran = True
                    (found, taken), delegate, kernels = report, _DELEGATES[setting.kernels][0], setting.kernels
                    if kernels == "xnnpack" and delegate not in taken:
                        kernels = "builtin"  # XNNPACK took nothing
                    known = {"device-kind": phone.kind, "delegated": taken.get(delegate), "before": before,
                             "after": after, "channels": channels}
                    where = latency.columns(size, setting.threads, kernels)
                    where |= {key: it for key, it in known.items() if it}
                    yield Run(subject, setting, there.record(
                        "latency", subject, unit="ms", where=where, model_sha256=sha256(path), **found
                    ))
                before = after
    if not ran:
        raise DeviceError(f"{shell.serial}: no model ran on it; the lines above say why")


def _push(shell: Shell, folder: str, tool: Path, files: Mapping[str, Path], size: str | None) -> None:
    """Bring the tool and the models to the phone, the models at one size: delegates take no open one."""
    shell.push(tool, f"{folder}/benchmark_model", "benchmark_model")
    shell.run(f"chmod 755 {folder}/benchmark_model", "benchmark_model was made executable")
    with tempfile.TemporaryDirectory() as scratch:
        for number, (subject, path) in enumerate(files.items()):
            copy = Path(scratch) / f"{number}.tflite"
            copy.write_bytes(latency.fixed_copy(path, size) if size else path.read_bytes())
            shell.push(copy, f"{folder}/{number}.tflite", subject)


def _run(phone: Phone, folder: str, number: int, subject: str, setting: Setting, rounds: int) -> Report | str:
    """The report of one run, or why there is none."""
    delegate, flags = _DELEGATES[setting.kernels]
    command = (f"{folder}/benchmark_model --graph={folder}/{number}.tflite --num_threads={setting.threads} "
               f"--num_runs={rounds} {flags} 2>&1")
    status, output = phone.shell.run(command, f"{subject} ran on its {setting.name}", seconds=900.0)
    if "STARTING!" not in output:
        # It says so first of all: without it, the program never ran.
        reason = (output.strip().splitlines() or [f"it ended with status {status}"])[-1].strip()
        raise DeviceError(f"this benchmark_model cannot run on {phone.shell.serial}, which is {phone.abi} ({reason}): "
                          "name one that was built for it")
    report = read_report(output) if status == 0 else None
    if not report or (setting.kernels in ("gpu", "nnapi") and delegate not in report[1]):
        return _why(status, output)
    if setting.kernels == "nnapi" and "accelerators available: [nnapi-reference]" in output:
        return "NNAPI has no accelerator here, only its reference code for the CPU"
    return report


_NOT_WHY = ("Benchmarking failed", "Restored original execution plan")


def _why(status: int, output: str) -> str:
    """The first line of a report that says what went wrong."""
    for pattern in ("ERROR|FATAL", r"(?i)\bfailed\b|unsupported|not be executed|fault|killed"):
        for line in output.splitlines():
            said = _PREFIX.sub("", line.strip())
            if re.search(pattern, line) and said and not said.startswith(_NOT_WHY):
                return said
    return f"it ended with status {status}" if status else "it reports no time"


# The report

_PREFIX = re.compile(r"^(?:[A-Z]/?\s*tflite\s*:\s*)?(?:(?:VERBOSE|INFO|WARN|WARNING|ERROR|FATAL):\s*)?")
_NUMBER = r"([\d.]+(?:e[+-]?\d+)?)"
_APPLIED = re.compile(
    r"(?:Explicitly a|A)pplied (\w+) delegate(?:, and the model graph will be (\w+) executed|\.?\s*$)", re.MULTILINE
)
_WHOLLY = {"completely": "wholly", "fully": "wholly", "partially": "partly"}


def read_report(output: str) -> Report | None:
    """What `benchmark_model` printed, read; None if it did not come to the end.

    The first part is what a record takes: "value" and "spread" in ms (of older builds, which give no median, the mean),
    "spread_is", and "count". The second has the delegates that took part of the graph, with "wholly", "partly", or ""
    where an older build does not say. The runs' own line is the last one with ``count=``; the one before is the
    warm-up's.
    """
    end = re.search(r"nference timings in us:", output)
    counted = re.findall(r"\b(count=\d+ .*)", output[:end.start()]) if end else []
    if not counted:
        return None
    of = {name: float(number) for name, number in re.findall(rf"(\w+)={_NUMBER}", counted[-1])}
    keys, spread_is = ("avg", "min", "max"), "least and greatest run; the value is their mean"
    if "median" in of:
        keys, spread_is = ("median", "p5", "p95"), "5th and 95th percentile of the runs"
    # Of one run, or of runs that are all of one length, only that length may be printed.
    value, low, high = (of.get(key, of.get("curr", 0.0)) / 1000 for key in keys)
    if of["count"] < 1 or value <= 0:
        return None
    taken = {name: _WHOLLY.get(part, "") for name, part in _APPLIED.findall(output.replace("\r", ""))}
    return {"count": int(of["count"]), "value": value, "spread": (low, high), "spread_is": spread_is}, taken
