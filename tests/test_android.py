"""A phone through `adb`, as far as that goes without one: a fake adb that speaks the real one's command line.

The fake answers with the real adb's words, exit statuses and streams (taken from adb 29.0.6). Its phone is a folder:
what is pushed lands there, and `shell` runs the command there in a real shell, so that files, rights and removal are
real. The `benchmark_model` that is pushed prints what TensorFlow's prints, with numbers of its own.

Nothing that is measured here is a device's time. The fake says what it is, the library marks its records, and a test
below guards the shipped ones.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abpn_lib import cli, datasets, models, results
from abpn_lib.claims.ledger import ledger as claims
from abpn_lib.files import sha256
from abpn_lib.timing import android, latency

MODEL = "abpn-int8-ptq"
PYTHON = f"#!{sys.executable} -SsE\n"

ADB = PYTHON + r'''
import os, sys  # nothing more: it is started hundreds of times
here = os.path.dirname(os.path.abspath(__file__))
plan = eval(open(here + "/plan").read())
phone = here + "/phone"
words = sys.argv[1:]
with open(here + "/calls", "a") as log:
    log.write(repr(words) + "\n")
call = sum(1 for _ in open(here + "/calls")) - 1

def end(status, out="", err=""):
    sys.stdout.write(out)
    sys.stdout.flush()
    sys.stderr.write(err)
    sys.exit(status)

def run(command):
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.dup2(out_end, 1)
        os.dup2(err_end, 2)
        os.environ["PATH"] = phone + "/system/bin:" + os.environ["PATH"]
        os.execvp("sh", ["sh", "-c", command])
    os.close(out_end)
    os.close(err_end)
    texts = [open(end).read().replace(phone, "") for end in (out, err)]
    return (*texts, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

UNAUTHORIZED = (
    "device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set\n"
    "Try 'adb kill-server' if that seems wrong.\nOtherwise check for a confirmation dialog on your device.\n"
)
left = "leaves" in plan and call >= plan["leaves"] and (call == plan["leaves"] or not plan.get("returns"))
devices = {} if left else plan["devices"]
if "server" in plan:
    end(1, err="* daemon not running; starting now at tcp:5037\n" + plan["server"] + "\n")
if words == ["devices", "-l"]:
    rows = "".join(f"{serial:<22} {state}\n" for serial, state in devices.items())
    end(0, "List of devices attached\n" + rows + "\n", "* daemon not running; starting now at tcp:5037\n"
        "* daemon started successfully\n" if call == 0 else "")
serial = None
if words[:1] == ["-s"]:
    serial, words = words[1], words[2:]
elif len(devices) == 1:
    serial = next(iter(devices))
if serial is None:
    wrong = "more than one device/emulator\n" if devices else "no devices/emulators found\n"
elif serial not in devices:
    wrong = f"device '{serial}' not found\n"
elif devices[serial].startswith("unauthorized"):
    wrong = UNAUTHORIZED
elif devices[serial].startswith("offline"):
    wrong = "device offline\n"
else:
    wrong = ""
there = lambda text: text.replace("/data/local/tmp", phone + "/data/local/tmp").replace("/sys/", phone + "/sys/")
if words[0] == "push":
    _, source, target = words
    size = os.path.getsize(source)
    done = f"{source}: %s 0 skipped. 81.3 MB/s ({size} bytes in 0.006s)\n"
    failed = f"adb: error: failed to copy '{source}' to '{target}': remote "
    if wrong and plan.get("breaks"):
        end(1, failed.replace("remote ", "couldn't read from device\n") + done % "0 files pushed,")
    if wrong:
        end(1, "adb: error: failed to get feature set: " + wrong)
    if size > plan.get("space", size):
        end(1, failed + "write failed: No space left on device\n" + done % "0 files pushed,")
    try:
        with open(there(target), "wb") as file:
            file.write(open(source, "rb").read()[:plan.get("short", size)])
    except OSError as error:
        end(1, failed + f"couldn't create file: {error.strerror}\n" + done % "0 files pushed,")
    end(0, done % "1 file pushed,")
if wrong and words[0] == "shell" and plan.get("breaks"):
    wrong, breaking = "", True  # it was there when the command began
else:
    breaking = False
if wrong:
    end(1, err="error: " + wrong)
if words == ["get-state"]:
    end(0, "device\n")
assert words[0] == "shell" and len(words) == 2, words
out, err, status = run(there(words[1]))
if breaking:
    end(0, out[:len(out) // 2])  # so the real one ends: status 0, and no word
if not plan.get("v2", True):
    # Before Android 7: one stream, a terminal's ends of lines, no exit status.
    end(0, (out + err).replace("\n", "\r\n"))
end(status, out, err)
'''

TOOL = PYTHON + r'''
import os, sys
words = [word.lstrip("-").partition("=") for word in sys.argv[1:]]
flags = {name: value for name, _, value in words}
plan = eval(open(os.path.dirname(os.path.abspath(__file__)) + "/../../../../tool").read())
old, say = plan.get("old"), "" if plan.get("old") else "INFO: "

def info(text):
    print(say + text, flush=True)

def fail(*lines):
    for line in lines:
        print(line, file=sys.stderr, flush=True)
    print(("" if old else "ERROR: ") + "Benchmarking failed.", file=sys.stderr)
    sys.exit(1)

info("STARTING!")
info("Log parameter values verbosely: [0]")
info(f"Num threads: [{flags['num_threads']}]")
info(f"Graph: [{flags['graph']}]")
content = open(flags["graph"], "rb").read()
delegate = next((name for name in ("gpu", "nnapi", "xnnpack") if flags.get("use_" + name) == "true"), "")
title = {"xnnpack": "XNNPACK", "gpu": "GPU", "nnapi": "NNAPI"}.get(delegate, "")
takes = plan.get("takes", {}).get(delegate, "completely")
if delegate == "nnapi":
    info(f"NNAPI accelerators available: [{plan.get('accelerators', 'qti-default,qti-dsp,nnapi-reference')}]")
info(f"Loaded model {flags['graph']}")
print("INFO: Initialized TensorFlow Lite runtime.", flush=True)
if "sleeps" in plan:
    with open(plan["sleeps"], "w") as file:
        file.write(str(os.getpid()))
    import time
    time.sleep(60)
if takes == "crash":
    os.kill(os.getpid(), 11)
if takes == "refuses":
    print("ERROR: NN API returned error ANEURALNETWORKS_OP_FAILED at line 3779 while completing NNAPI compilation.\n",
          flush=True)
    fail("ERROR: Restored original execution plan after delegate application failure.",
         ("" if old else "ERROR: ") + f"Failed to apply {title} delegate.")
if takes == "absent":
    info("GPU acceleration is unsupported on this platform.")
elif takes == "nothing":
    info(f"Though {title} delegate is explicitly applied, the model graph will not be executed by the delegate.")
elif takes == "old":
    info(f"Applied {title} delegate.")
elif delegate:
    applied = f"pplied {title} delegate, and the model graph will be {takes} executed "
    kernels = " w/ 2 delegate kernels." if takes == "partially" else "."
    info(f"A{applied}w/ the delegate." if old else f"Explicitly a{applied}by the delegate{kernels}")
info(f"The input model file size (MB): {len(content) / 1e6}")
info("Initialized session in 16.242ms.")
base = 4000 + 3 * len(content) // 10 + sum(content[::97]) % 4000
speed = {"gpu": 6, "nnapi": 9}.get(delegate, int(flags["num_threads"]) ** 0.8)

def runs(count):
    times = sorted(int(base / speed * (1 + (37 * n % 23) / 200)) for n in range(count))
    mean = sum(times) / count
    std = int((sum((time - mean) ** 2 for time in times) / count) ** 0.5)
    info(f"Running benchmark for at least {count} iterations and at least 1 seconds but terminate if exceeding 150 "
         "seconds.")
    text = f"count={count} first={times[-1]} curr={times[0]} min={times[0]} max={times[-1]} avg={mean:g} std={std}"
    if not old:
        text += f" p5={times[count * 5 // 100]} median={times[count // 2]} p95={times[count * 95 // 100]}"
    info(text + "\n")
    return mean

warm, mean = runs(3), runs(int(flags["num_runs"]))
if old:
    print(f"Average inference timings in us: Warmup: {warm:g}, Init: 16242, Inference: {mean:g}")
    sys.exit()
info(f"Inference timings in us: Init: 16242, First inference: 30000, Warmup (avg): {warm:g}, Inference (avg): {mean:g}")
info("Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual "
     "memory footprint of the model at runtime. Take the information at your discretion.")
info("Memory footprint delta from the start of the tool (MB): init=4.92969 overall=138.809")
'''

PROPERTIES = {
    "ro.product.model": "fake adb of the tests", "ro.product.manufacturer": "abpn", "ro.soc.model": "SC1234",
    "ro.board.platform": "board", "ro.hardware": "ware", "ro.build.version.release": "14",
    "ro.product.cpu.abi": "arm64-v8a",
}
BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  level: 83
  voltage: 4210
  temperature: 312
  technology: Li-ion
"""
USUAL = "device usb:1-2 product:fake model:fake_adb device:fake transport_id:1"


class Fake:
    """The fake adb in a folder of its own, and the phone's folder below it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.phone = folder, folder / "phone"
        (self.phone / "system" / "bin").mkdir(parents=True)
        (self.phone / "data/local/tmp").mkdir(parents=True)
        self.write(folder / "adb", ADB, 0o755)
        self.tool = self.write(folder / "benchmark_model", TOOL)
        self.properties(**PROPERTIES)
        self.command("dumpsys", BATTERY)
        self.system("devices/system/cpu/present", "0-7")
        self.system("devices/system/cpu/cpu0/cpufreq/scaling_governor", "schedutil")
        self.plans()
        self.tool_plan()

    @staticmethod
    def write(path: Path, text: str, mode: int = 0o644) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def command(self, name: str, prints: str) -> None:
        self.write(self.phone / "system/bin" / name, f"#!/bin/sh\ncat << 'END'\n{prints}END\n", 0o755)

    def properties(self, **given: str) -> None:
        self.command("getprop", "".join(f"[{name}]: [{value}]\n" for name, value in given.items()))

    def system(self, name: str, text: str) -> None:
        self.write(self.phone / "sys" / name, text + "\n")

    def plans(self, **plan: Any) -> None:
        self.write(self.folder / "plan", repr({"devices": {"FA1": USUAL}, **plan}))
        (self.folder / "calls").unlink(missing_ok=True)

    def tool_plan(self, **plan: Any) -> None:
        self.write(self.phone / "tool", repr(plan))

    @property
    def calls(self) -> list[list[str]]:
        return [ast.literal_eval(line) for line in (self.folder / "calls").read_text().splitlines()]

    @property
    def left_behind(self) -> list[str]:
        return [path.name for path in (self.phone / "data/local/tmp").iterdir()]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    folder = tmp_path / "fake-adb"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    return Fake(folder)


@pytest.fixture(scope="module")
def small() -> dict[str, bytes]:
    return {MODEL: latency.fixed_copy(models.find(MODEL), 32, 48)}


def cpu(*threads: int) -> list[android.Setting]:
    return [android.Setting("xnnpack", count) for count in threads]


GPU, NNAPI = android.Setting("gpu", 1), android.Setting("nnapi", 1)


def run_all(fake: Fake, small: dict[str, bytes], *chosen: android.Setting, rounds: int = 20) -> list[android.Run]:
    return list(android.measure(android.find(), fake.tool, small, chosen, rounds=rounds))


# The model for the phone


@pytest.mark.parametrize("name", ["abpn-fp32", "abpn-int8-ptq", "fsrcnn-fp32", "fsrcnn-int8-ptq", "bilinear-int8-ptq"])
def test_a_copy_of_one_size_computes_what_the_resized_model_does(name: str) -> None:
    from ai_edge_litert.interpreter import Interpreter

    path = models.find(name)
    content = latency.fixed_copy(path, 20, 28)
    resized, fixed = Interpreter(model_path=str(path)), Interpreter(model_content=content)
    (lr,) = resized.get_input_details()
    resized.resize_tensor_input(lr["index"], (1, 20, 28, 3))
    answers = []
    for interpreter in (resized, fixed):
        interpreter.allocate_tensors()
        values = np.random.default_rng(0).integers(0, 256, (1, 20, 28, 3)).astype(lr["dtype"])
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
        interpreter.invoke()
        answers.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    assert answers[1].shape == (1, 60, 84, 3)
    assert np.array_equal(*answers)
    assert answers[1].std() > 0
    (fixed_lr,), (fixed_hr,) = fixed.get_input_details(), fixed.get_output_details()
    assert fixed_lr["shape_signature"].tolist() == [1, 20, 28, 3]
    assert fixed_hr["shape_signature"].tolist() == [1, 60, 84, 3]
    assert latency.fixed_copy(path, 24, 40) != content


def test_a_model_of_one_size_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "fixed.tflite"
    path.write_bytes(latency.fixed_copy(models.find(MODEL), 20, 28))
    assert latency.fixed_copy(path, 20, 28) == latency.fixed_copy(path) == path.read_bytes()
    with pytest.raises(latency.DeviceError, match="not 48x32 images"):
        latency.fixed_copy(path, 32, 48)


# The report, in the words of several years

HEAD = """INFO: STARTING!
INFO: Loaded model /data/local/tmp/m.tflite
INFO: Initialized session in 16.242ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
"""
NEW = HEAD + """INFO: count=5 first=1251 curr=1125 min=1117 max=1251 avg=1153 std=49 p5=1117 median=1129 p95=1251

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=119614 curr=115889 min=111842 max=119614 avg=115246 std=1329 p5=112107 median=115350 p95=116620

INFO: Inference timings in us: Init: 1361236, First inference: 125113, Warmup (avg): 115344, Inference (avg): 115246
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual
INFO: Memory footprint delta from the start of the tool (MB): init=132.816 overall=132.816
"""
OLDER = """STARTING!
Graph: [/data/local/tmp/m.tflite]
Loaded model /data/local/tmp/m.tflite
count=2 first=360262 curr=248946 min=248946 max=360262 avg=304604 std=55658

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, Inference (avg): 2.95034e+06
Peak memory footprint (MB): init=4.92969 overall=138.809
"""
OLDEST = """STARTING!
Initialized session in 3.33ms
count=215 first=12231 curr=2106 min=2065 max=12231 avg=2331.42 std=746

count=459 first=2143 curr=2101 min=2056 max=2656 avg=2177.1 std=124

Average inference timings in us: Warmup: 2331.42, Init: 896, no stats: 2177.1
"""
MIDDLE, ENDS = "5th and 95th percentile of the runs", "least and greatest run; the value is their mean"


@pytest.mark.parametrize(("text", "count", "value", "low", "high", "spread_is"), [
    (NEW, 50, 115.350, 112.107, 116.620, MIDDLE),
    (NEW.replace("\n", "\r\n"), 50, 115.350, 112.107, 116.620, MIDDLE),
    (OLDER, 50, 2950.34, 2727.568, 3189.954, ENDS),
    (OLDEST, 459, 2.1771, 2.056, 2.656, ENDS),
    ("".join(f"I tflite  : {line}\n" for line in OLDER.splitlines()), 50, 2950.34, 2727.568, 3189.954, ENDS),
    ("count=1 curr=3512391\n\nInference timings in us: Init: 1, ...", 1, 3512.391, 3512.391, 3512.391, ENDS),
    ("count=3 curr=70(all same)\n\nInference timings in us: Init: 1, ...", 3, 0.07, 0.07, 0.07, ENDS),
    ("INFO: count=1 curr=700 p5=700 median=700 p95=700\nINFO: Inference timings in us: I", 1, 0.7, 0.7, 0.7, MIDDLE),
])
def test_reports_of_every_form_are_read(
    text: str, count: int, value: float, low: float, high: float, spread_is: str
) -> None:
    report = android.read_report(text)
    assert report is not None
    assert (report.count, report.spread_is) == (count, spread_is)
    assert (report.value_ms, report.low_ms, report.high_ms) == pytest.approx((value, low, high))


@pytest.mark.parametrize("text", [
    "", "STARTING!", HEAD, NEW.split("INFO: Inference")[0], NEW.split("INFO: count=5 ")[0] + "Inference timings in us:",
    "count=0\nInference timings in us: Init: 1", "count=5 first=1 curr=0 min=0 max=0 avg=0\nInference timings in us:",
])
def test_a_report_that_came_to_no_end_is_none(text: str) -> None:
    assert android.read_report(text) is None


@pytest.mark.parametrize(("line", "taken"), [
    ("INFO: Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate.",
     {"GPU": "wholly"}),
    ("Explicitly applied NNAPI delegate, and the model graph will be partially executed by the delegate w/ 11 delegate "
     "kernels.", {"NNAPI": "partly"}),
    ("Applied GPU delegate, and the model graph will be completely executed w/ the delegate.", {"GPU": "wholly"}),
    ("Applied NNAPI delegate.", {"NNAPI": ""}),
    ("INFO: Though NNAPI delegate is explicitly applied, the model graph will not be executed by the delegate.", {}),
    ("INFO: GPU delegate created.", {}),
    ("ERROR: Failed to apply NNAPI delegate.", {}),
])
def test_what_a_delegate_took_is_read(line: str, taken: dict[str, str]) -> None:
    report = android.read_report(f"STARTING!\r\n{line}\r\n{NEW}")
    assert report is not None
    assert report.taken == taken


# A phone that does as it should


def test_every_setting_is_measured_and_the_phone_is_left_clean(fake: Fake, small: dict[str, bytes]) -> None:
    phone = android.find()
    chosen = android.settings(phone)
    assert [setting.name for setting in chosen] == ["CPU x1", "CPU x2", "CPU x4", "CPU x8", "GPU", "NNAPI"]
    both = {**small, "other": latency.fixed_copy(models.find("abpn-fp32"), 32, 48)}
    runs = list(android.measure(phone, fake.tool, both, chosen, rounds=20))
    # Models take turns within a setting.
    assert [(run.subject, run.setting) for run in runs] == [(name, setting) for setting in chosen for name in both]
    assert all(run.report and not run.refusal and run.report.count == 20 for run in runs)
    assert {run.before for run in runs} == {run.after for run in runs} == {"battery 31.2 °C"}
    medians = [run.report.value_ms for run in runs if run.report and run.subject == "other"]
    assert medians[:4] == sorted(medians[:4], reverse=True)
    assert len(set(medians)) == len(medians)
    assert fake.left_behind == []
    (made,) = [words[-1] for words in fake.calls if "mkdir" in words[-1]]
    assert made.startswith("mkdir /data/local/tmp/abpn-")


def test_what_a_phone_says_of_itself_is_in_its_records(fake: Fake, small: dict[str, bytes]) -> None:
    phone = android.find()
    assert phone.name == (
        "NOT A PHONE, a fake: abpn fake adb of the tests, SoC SC1234, Android 14, arm64-v8a, 8 cores, "
        "CPU governor schedutil"
    )
    (run,) = run_all(fake, small, *cpu(4))
    context = results.Context("abpn latency", "this machine", {"abpn-lib": "9", "numpy": "1"}, "c", "2026-01-01")
    record = android.record(run, phone, context, size="48x32", tool_sha256="feed", model_sha256="beef")
    assert run.report is not None
    assert (record.quantity, record.subject, record.unit, record.kind) == ("latency", MODEL, "ms", "measured")
    assert (record.value, record.spread) == (run.report.value_ms, (run.report.low_ms, run.report.high_ms))
    assert record.spread is not None
    assert record.spread[0] < record.value < record.spread[1]
    assert (record.count, record.spread_is, record.model_sha256) == (20, MIDDLE, "beef")
    assert record.conditions == {
        "size": "48x32", "threads": "4", "kernels": "xnnpack", "device-kind": "fake", "delegated": "wholly",
        "before": "battery 31.2 °C", "after": "battery 31.2 °C",
    }
    assert record.device == phone.name
    assert "FA1" not in str(record)
    assert record.versions == {"abpn-lib": "9", "android": "14", "benchmark_model": "sha256 feed"}


@pytest.mark.parametrize(("properties", "soc"), [
    ({"ro.soc.model": "SM8550"}, "SM8550"),
    ({"ro.soc.model": "", "ro.board.platform": "msm8996", "ro.hardware": "qcom"}, "msm8996"),
    ({"ro.hardware": "qcom"}, "qcom"),
    ({}, "unknown"),
])
def test_the_soc_has_several_names(fake: Fake, properties: dict[str, str], soc: str) -> None:
    fake.properties(**{"ro.product.model": "fake adb of the tests", "ro.build.version.release": "6.0.1", **properties})
    assert android.find().soc == soc


@pytest.mark.parametrize("properties", [{}, {"ro.product.model": "Pixel 7"}, {"ro.build.version.release": "14"}])
def test_what_does_not_say_what_it_is_is_refused(fake: Fake, properties: dict[str, str]) -> None:
    fake.properties(**properties)
    with pytest.raises(android.DeviceError, match="FA1 does not say what it is"):
        android.find()


def test_a_phone_may_keep_things_to_itself(fake: Fake, small: dict[str, bytes]) -> None:
    (fake.phone / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").unlink()
    fake.command("dumpsys", "Can't find service: battery\n")
    fake.system("devices/system/cpu/present", "0-1,4")
    fake.system("class/thermal/thermal_zone0/temp", "38500")
    phone = android.find()
    assert (phone.governor, phone.cores) == ("unknown", 3)
    assert [setting.threads for setting in android.settings(phone)] == [1, 2, 1, 1]
    assert [setting.threads for setting in android.settings(phone, 6)] == [6, 1, 1]
    assert run_all(fake, small, *cpu(1))[0].before == "thermal zone 38.5 °C"
    fake.system("class/thermal/thermal_zone0/temp", "39")
    assert run_all(fake, small, *cpu(1))[0].after == "thermal zone 39.0 °C"
    (fake.phone / "sys/class/thermal/thermal_zone0/temp").unlink()
    (run,) = run_all(fake, small, *cpu(1))
    assert (run.before, run.after) == ("", "")


def test_an_old_phone_and_an_old_tool_do_too(fake: Fake, small: dict[str, bytes]) -> None:
    fake.plans(v2=False)
    fake.tool_plan(old=True, takes={"gpu": "refuses", "nnapi": "old", "xnnpack": "partially"})
    one, gpu, nnapi = run_all(fake, small, *cpu(1), GPU, NNAPI)
    assert one.report is not None
    assert one.report.spread_is == ENDS
    assert one.report.taken == {"XNNPACK": "partly"}
    assert gpu.report is None
    assert "ANEURALNETWORKS_OP_FAILED" in gpu.refusal
    assert nnapi.report is not None
    assert nnapi.report.taken == {"NNAPI": ""}
    assert fake.left_behind == []


def test_several_phones_are_told_apart(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.plans(devices={"FA1": USUAL, "192.168.1.20:5555": USUAL, "FA3": "offline transport_id:3"})
    with pytest.raises(android.DeviceError, match=r"several phones, FA1 \(device\), .*, FA3 \(offline\): name one"):
        android.find()
    assert android.find("192.168.1.20:5555").serial == "192.168.1.20:5555"
    monkeypatch.setenv("ANDROID_SERIAL", "FA1")
    assert android.find().serial == "FA1"


# Delegates that refuse


@pytest.mark.parametrize(("setting", "plan", "why"), [
    (GPU, {"takes": {"gpu": "refuses"}}, "ANEURALNETWORKS_OP_FAILED"),
    (GPU, {"takes": {"gpu": "nothing"}}, "will not be executed by the delegate"),
    (GPU, {"takes": {"gpu": "absent"}}, "unsupported on this platform"),
    (GPU, {"takes": {"gpu": "crash"}}, "Segmentation fault"),
    (NNAPI, {"takes": {"nnapi": "refuses"}, "old": True}, "ANEURALNETWORKS_OP_FAILED"),
    (NNAPI, {"accelerators": "nnapi-reference"}, "no accelerator"),
])
def test_a_delegate_that_refuses_ends_nothing(
    fake: Fake, small: dict[str, bytes], setting: android.Setting, plan: dict[str, Any], why: str
) -> None:
    fake.tool_plan(**plan)
    first, second, third = run_all(fake, small, *cpu(1), setting, *cpu(2))
    assert first.report is not None
    assert third.report is not None
    assert second.report is None
    assert why in second.refusal
    assert "\n" not in second.refusal
    assert fake.left_behind == []


def test_kernels_are_those_that_ran(fake: Fake, small: dict[str, bytes]) -> None:
    context = results.Context("abpn latency", "", {}, "", "2026-01-01")
    fake.tool_plan(takes={"xnnpack": "nothing", "gpu": "partially"})
    phone = android.find()
    runs = run_all(fake, small, *cpu(1), GPU, android.Setting("builtin", 2))
    told = [android.record(run, phone, context, size="48x32", tool_sha256="").conditions for run in runs]
    assert [where["kernels"] for where in told] == ["builtin", "gpu", "builtin"]
    assert [where.get("delegated") for where in told] == [None, "partly", None]
    flags = [words[-1] for words in fake.calls if "--graph" in words[-1]]
    for asked, flag in zip(flags, ("--use_xnnpack=true", "--use_gpu=true", "--use_xnnpack=false"), strict=True):
        assert flag in asked


# A phone that does not do as it should: one line, and what was measured stays


@pytest.mark.parametrize(("plan", "serial", "told"), [
    ({"devices": {}}, None, "adb finds no phone: plug one in"),
    ({}, "FA9", "no phone of the serial number 'FA9'; there are FA1 (device)"),
    ({"devices": {"FA1": "unauthorized usb:1-2"}}, None, 'FA1 has the state "unauthorized": accept the prompt'),
    ({"devices": {"FA1": "authorizing transport_id:1"}}, None, 'FA1 has the state "authorizing": accept the prompt'),
    ({"devices": {"FA1": "offline transport_id:1"}}, None, 'FA1 has the state "offline": unplug it'),
    ({"devices": {"FA1": "no permissions (missing udev rules? user is in the plugdev group); see [http://x] usb:1-1"}},
     None, 'FA1 has the state "no permissions": give your user the right'),
    ({"devices": {"FA1": "recovery usb:1-2 transport_id:1"}}, "FA1", 'FA1 has the state "recovery": start Android'),
    ({"server": "error: cannot connect to daemon"}, None, "adb cannot list phones (error: cannot connect to daemon)"),
])
def test_a_phone_that_cannot_be_used_is_named(fake: Fake, plan: dict[str, Any], serial: str | None, told: str) -> None:
    fake.plans(**plan)
    with pytest.raises(android.DeviceError) as caught:
        android.find(serial)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_fake_has_adb_s_own_words_too(fake: Fake) -> None:
    """What the library reads from `adb devices` is told by other commands as well: the fake agrees with itself."""
    def says(*words: str) -> tuple[int, str]:
        done = subprocess.run(["adb", *words], capture_output=True, text=True)
        return done.returncode, (done.stdout + done.stderr).strip()

    assert says("-s", "x", "get-state") == (1, "error: device 'x' not found")
    assert says("get-state") == (0, "device")
    fake.plans(devices={})
    assert says("shell", "true") == (1, "error: no devices/emulators found")
    assert says("push", "/dev/null", "/x") == (1, "adb: error: failed to get feature set: no devices/emulators found")
    fake.plans(devices={"a": USUAL, "b": USUAL})
    assert says("shell", "true") == (1, "error: more than one device/emulator")
    fake.plans(devices={"a": "unauthorized"})
    assert says("-s", "a", "shell", "true")[1].startswith("error: device unauthorized.\n")
    fake.plans(devices={"a": "offline"})
    assert says("-s", "a", "shell", "true") == (1, "error: device offline")


def test_without_adb_one_is_told_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(android.DeviceError, match="adb is not installed: install"):
        android.find()


@pytest.mark.parametrize(("plan", "told"), [
    ({"space": 2000}, "no space is left on FA1 for benchmark_model: free some"),
    ({"space": 20000}, f"no space is left on FA1 for {MODEL}: free some"),
    ({"short": 9000}, f"{MODEL} did not arrive whole on FA1"),
])
def test_a_full_phone_is_named(fake: Fake, small: dict[str, bytes], plan: dict[str, Any], told: str) -> None:
    assert len(TOOL) < 9000 < 20000 < len(small[MODEL])
    fake.plans(**plan)
    with pytest.raises(android.DeviceError) as caught:
        run_all(fake, small, *cpu(1))
    assert told in str(caught.value)
    assert fake.left_behind == []


def test_a_push_that_fails_is_named(fake: Fake, small: dict[str, bytes], tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.write_text("x")
    phone = android.find()
    # A folder stands where the file is to go.
    fake.write(fake.phone / "system/bin/mkdir", '#!/bin/sh\nexec /bin/mkdir -p "$1/benchmark_model"\n', 0o755)
    with pytest.raises(android.DeviceError, match=r"model could not be pushed to FA1 \(adb: error: .*Is a dir"):
        list(android.measure(phone, gone, small, cpu(1)))
    assert fake.left_behind == []
    fake.write(fake.phone / "system/bin/mkdir", "#!/bin/sh\necho 'mkdir: Permission denied' >&2; exit 1\n", 0o755)
    with pytest.raises(android.DeviceError, match=r"no folder in /data/local/tmp \(mkdir: Permission denied\)"):
        list(android.measure(phone, gone, small, cpu(1)))
    fake.write(fake.phone / "system/bin/mkdir", "#!/bin/sh\necho 'mkdir: No space left on device' >&2; exit 1\n", 0o755)
    with pytest.raises(android.DeviceError, match="no space is left on FA1 for a folder"):
        list(android.measure(phone, gone, small, cpu(1)))


@pytest.mark.parametrize("content", [
    b"\x7fELF\x02\x01\x01\x00" + b"\x00" * 8 + b"\x03\x00\xb7\x00" + b"\x00" * 100,  # made for another processor
    b"#!/bin/sh\necho \"/system/bin/sh: benchmark_model: not executable: 64-bit ELF file\" >&2; exit 126\n",
    b"#!/bin/sh\necho 'CANNOT LINK EXECUTABLE: library \"libc++_shared.so\" not found' >&2; exit 1\n",
])
def test_a_tool_that_cannot_run_is_named(fake: Fake, small: dict[str, bytes], content: bytes) -> None:
    fake.tool.write_bytes(content)
    with pytest.raises(android.DeviceError, match=r"cannot run on FA1, which is arm64-v8a \(.*\): name one"):
        run_all(fake, small, *cpu(1))
    assert fake.left_behind == []


def told_when_it_goes(phone: android.Phone, fake: Fake, small: dict[str, bytes]) -> tuple[int, str]:
    """How many runs came before the phone went away, and what was said then."""
    count = 0
    try:
        for _ in android.measure(phone, fake.tool, small, [*cpu(1), GPU], rounds=3):
            count += 1
    except android.DeviceError as error:
        return count, str(error)
    raise AssertionError("it went on without the phone")


# Gone for good, with adb's error; or the connection breaks within a command, and is there again at the next.
@pytest.mark.parametrize("way", [{}, {"breaks": True, "returns": True}])
def test_a_phone_may_go_away_at_any_call(fake: Fake, small: dict[str, bytes], way: dict[str, bool]) -> None:
    phone = android.find()
    fake.plans()
    assert len(list(android.measure(phone, fake.tool, small, [*cpu(1), GPU], rounds=3))) == 2
    calls = fake.calls
    timed = [number for number, words in enumerate(calls) if "--graph" in words[-1]]
    assert len(timed) == 2
    for number, words in enumerate(calls):
        fake.plans(leaves=number, **way)
        count, told = told_when_it_goes(phone, fake, small)
        # A run counts once the temperature behind it is known.
        assert count == sum(run + 1 < number for run in timed), words
        assert "FA1 went away while" in told, words
        assert "\n" not in told
        last = number == len(calls) - 1
        assert ["rm -rf" in then[-1] for then in fake.calls[number + 1:]] == ([] if last else [*told_push(words), True])
        for left in fake.left_behind:
            # It cannot be removed from a phone that is not there; that is said.
            assert not way or last
            assert f"/data/local/tmp/{left}" in told
            shutil.rmtree(fake.phone / "data/local/tmp" / left)


def told_push(words: list[str]) -> list[bool]:
    """A push that fails is followed by a question whether the phone is there."""
    return [False] if "push" in words else []


def test_a_phone_may_go_away_while_it_is_looked_at(fake: Fake) -> None:
    android.find()
    for number in range(1, len(fake.calls)):
        fake.plans(leaves=number)
        with pytest.raises(android.DeviceError, match=r"FA1 went away .* \(error: device 'FA1' not found\)"):
            android.find()


def test_a_phone_that_hangs_is_given_up(fake: Fake) -> None:
    fake.write(fake.phone / "system/bin/getprop", "#!/bin/sh\nexec sleep 5\n", 0o755)
    with pytest.raises(android.DeviceError, match=r"gave no answer in 0\.5 s: wake the phone up"):
        android._adb("-s", "FA1", "shell", "getprop", seconds=0.5)


def test_whoever_stops_early_leaves_nothing_behind(fake: Fake, small: dict[str, bytes]) -> None:
    with contextlib.closing(android.measure(android.find(), fake.tool, small, cpu(1, 2), rounds=3)) as runs:
        next(runs)
        assert len(fake.left_behind) == 1
    assert fake.left_behind == []


def test_an_interrupted_command_stops_the_tool_and_tidies_up(fake: Fake, tmp_path: Path) -> None:
    started = tmp_path / "started"
    fake.tool_plan(sleeps=str(started))
    words = ["latency", MODEL, "--size", "48x32", "--device", "android", "--benchmark-model", str(fake.tool)]
    # A command that a script put into the background ignores the key, and its children would as well.
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    line = [sys.executable, "-m", "abpn_lib.cli", *words]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, preexec_fn=listen) as command:
        for _ in range(600):
            if started.exists() and started.read_text():
                break
            time.sleep(0.1)
        running = int(started.read_text())
        assert Path(f"/proc/{running}").exists() or sys.platform != "linux"
        command.send_signal(signal.SIGINT)
        try:
            _, told = command.communicate(timeout=60)
        finally:
            command.kill()
    assert command.returncode == 130
    assert told.strip().endswith("abpn: interrupted")
    assert fake.left_behind == []
    if shutil.which("pkill"):
        assert _ends(running)
    else:
        os.kill(running, signal.SIGKILL)


def _ends(process: int) -> bool:
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        # An orphan that nobody waits for stays as a zombie in a container without an init.
        with contextlib.suppress(OSError):
            if ") Z " in Path(f"/proc/{process}/stat").read_text():
                return True
        time.sleep(0.1)
    return False


# The tool's own origin


def test_the_tool_is_named_or_fetched_by_its_hash(tmp_path: Path) -> None:
    tool = tmp_path / "site" / "benchmark_model"
    tool.parent.mkdir()
    tool.write_bytes(b"a tool")
    digest = hashlib.sha256(b"a tool").hexdigest()
    assert android.benchmark_model(tool) == android.benchmark_model(tool, digest.upper()) == tool
    with pytest.raises(android.DeviceError, match="--benchmark-model PATH, or give --benchmark-sha256 HASH"):
        android.benchmark_model()
    with pytest.raises(android.DeviceError, match="nothing is not a file"):
        android.benchmark_model(tmp_path / "nothing")
    with pytest.raises(android.DeviceError, match=f"has sha256 {digest}, not {'0' * 64}"):
        android.benchmark_model(tool, "0" * 64)
    with pytest.raises(android.DeviceError, match="'abc' is not a sha256"):
        android.benchmark_model(None, "abc")
    root = tmp_path / "data"
    with _served(tool.parent) as address:
        fetch = functools.partial(android.benchmark_model, None, root=root, address=f"{address}/benchmark_model")
        with pytest.raises(datasets.DataError, match=f"of sha256 {digest}, but 0+ is expected: it was not kept"):
            fetch("0" * 64)
        assert not [path for path in root.rglob("*") if path.is_file()]
        fetched = fetch(digest)
        assert fetched.read_bytes() == b"a tool"
    # It is there now: nothing is fetched again, and a changed file is noticed.
    assert fetch(digest.upper()) == fetched
    fetched.write_bytes(b"another")
    with pytest.raises(datasets.DataError, match="delete it and fetch it again"):
        fetch(digest)
    with pytest.raises(datasets.DataError, match="could not be fetched: check the network"):
        android.benchmark_model(None, "1" * 64, root=root, address="http://127.0.0.1:9/benchmark_model")


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# The command


def latency_on(fake: Fake, *words: str | Path) -> int:
    return cli.main(["latency", "--device", "android", "--benchmark-model", str(fake.tool), *map(str, words)])


def test_the_command_measures_and_the_ledger_reads_it(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "phone.json"
    fake.system("devices/system/cpu/present", "0")
    fake.tool_plan(takes={"nnapi": "refuses", "gpu": "partially"})
    assert latency_on(fake, "--out", out, "--rounds", "20") == 0
    printed = capsys.readouterr()
    assert "NOT A PHONE" in printed.out
    assert printed.err.count("does not run on NNAPI: NN API returned error") == 4
    records = results.load(out, "measured")
    names = ["fsrcnn-fp32", "fsrcnn-int8-ptq", "abpn-fp32", "abpn-int8-ptq"]
    assert [(r.subject, r.conditions["kernels"], r.conditions["threads"]) for r in records] == [
        (name, kernels, threads) for kernels, threads in (("xnnpack", "1"), ("gpu", "1")) for name in names
    ]
    for record in records:
        assert record.conditions["size"] == "640x360"
        assert record.model_sha256 == sha256(models.find(record.subject))
        assert record.versions["benchmark_model"] == f"sha256 {sha256(fake.tool)}"
        assert f"{record.value:9.2f} ms" in printed.out
    ledger = {
        entry.id: judgement for entry, judgement in claims.ledger([*records, *results.recorded()])
    }
    # The CPU's claim is judged by the CPU's times, one thread, of this one device.
    used = ledger["T3.abpn.cpu"].records
    assert {record.device for record in used} == {records[0].device}
    assert {(r.conditions["kernels"], r.conditions["threads"]) for r in used} == {("xnnpack", "1")}
    # The fake's own file judges nothing; the same rows under a phone's name do.
    assert cli.main(["claims", "--json", "--add", str(out)]) == 2
    assert "not from a phone" in capsys.readouterr().err
    kind = {"device-kind": "android"}
    renamed = [
        replace(record, device="phone: of the test's making", conditions={**record.conditions, **kind})
        for record in records
    ]
    results.save(out, renamed)
    assert cli.main(["claims", "--json", "--add", str(out)]) == 0
    printed_ledger = {entry["id"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert renamed[0].device in json.dumps(printed_ledger["T3.abpn.cpu"])
    assert fake.left_behind == []


def test_the_command_times_given_models_and_prints_json(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (MODEL, "--size", "48x32", "--threads", "2", "--kernels", "builtin", "--rounds", "5", "--json")
    assert cli.main(["latency", *words, "--device", "android:FA1", "--benchmark-model", str(fake.tool)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["conditions"]["kernels"] for row in rows] == ["builtin", "gpu", "nnapi"]
    assert rows[0]["conditions"]["threads"] == "2"
    assert rows[0]["conditions"]["size"] == "48x32"
    assert rows[0]["count"] == 5
    # Records are passed on; whose phone it was stays here.
    assert "FA1" not in json.dumps(rows)
    assert "--device android " in rows[0]["command"]


def test_results_so_far_are_kept_when_the_phone_goes_away(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "phone.json"
    fake.system("devices/system/cpu/present", "0-1")
    small = (MODEL, "--size", "48x32", "--rounds", "3")
    assert latency_on(fake, *small, "--out", out) == 0
    whole = results.load(out)
    timed = [number for number, words in enumerate(fake.calls) if "--graph" in words[-1]]
    out.unlink()
    capsys.readouterr()
    fake.plans(leaves=timed[2])
    assert latency_on(fake, *small, "--out", out) == 2
    kept = results.load(out)
    assert [(r.subject, r.value, r.conditions) for r in kept] == [(r.subject, r.value, r.conditions) for r in whole[:2]]
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "went away while abpn-int8-ptq ran on its GPU" in line
    assert line.endswith(f"the 2 results so far are in {out}")
    # Without a file they are printed.
    fake.plans(leaves=timed[1])
    assert latency_on(fake, *small, "--json") == 2
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)) == 1
    assert printed.err.strip().endswith("the 1 results so far are in standard output")


def test_the_command_answers_every_failure_with_one_line(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str | Path, mentions: str) -> None:
        assert cli.main(["latency", MODEL, "--size", "48x32", *map(str, words)]) == 2
        printed = capsys.readouterr()
        lines = printed.err.strip().splitlines()
        assert mentions in lines[-1], printed.err
        assert lines[-1].startswith("abpn: ")
        assert "Traceback" not in printed.err

    tool = ("--benchmark-model", fake.tool)
    refused("--device", "android", mentions="--benchmark-model PATH, or give --benchmark-sha256 HASH")
    refused("--device", "iphone", *tool, mentions="'iphone' is not android or android:SERIAL")
    refused(*tool, mentions="name it with --device android")
    refused("--device", "android:FA9", *tool, mentions="'FA9'")
    refused("--device", "android", "--benchmark-model", tmp_path / "none", mentions="none is not a file")
    refused("--device", "android", *tool, "--out", tmp_path / "no" / "r.json", mentions="its folder does not exist")
    assert not [words for words in fake.calls if "mkdir" in words[-1]]
    fake.system("devices/system/cpu/present", "0")
    fake.tool_plan(takes=dict.fromkeys(("xnnpack", "gpu", "nnapi"), "refuses"))
    refused("--device", "android", *tool, "--out", tmp_path / "r.json", mentions="FA1: no model ran on it")
    assert not (tmp_path / "r.json").exists()
    fake.plans(devices={"FA1": "unauthorized usb:1-2"})
    refused("--device", "android", *tool, mentions="accept the prompt on the phone")
    assert fake.left_behind == []


# Nothing of this is a device's time


def test_no_shipped_record_comes_from_anything_but_a_device() -> None:
    assert not [record.id for record in results.recorded() if android.not_a_phone(record)]
    folder = Path(results.__file__).parent / "records"
    assert not [path.name for path in folder.glob("*.json") if "fake adb" in path.read_text().lower()]


@pytest.mark.parametrize(("properties", "kind"), [
    ({"ro.product.model": "fake adb of the tests"}, "fake"),
    ({"ro.product.model": "sdk_gphone64_x86_64", "ro.kernel.qemu": "1"}, "android-emulator"),
    ({"ro.product.model": "sdk_gphone64_x86_64", "ro.boot.qemu": "1"}, "android-emulator"),
    ({"ro.product.model": "sdk", "ro.hardware": "ranchu"}, "android-emulator"),
    ({"ro.product.model": "Pixel 7", "ro.hardware": "panther", "ro.boot.qemu": "0"}, "android"),
])
def test_what_is_no_phone_is_marked_in_its_records(
    fake: Fake, small: dict[str, bytes], properties: dict[str, str], kind: str
) -> None:
    fake.properties(**properties, **{"ro.build.version.release": "14"})
    phone = android.find()
    assert phone.kind == kind
    assert ("NOT A PHONE" in phone.name) == (kind != "android")
    run = android.Run(MODEL, GPU, android.read_report(NEW), "", "", "")
    context = results.Context("", "", {}, "", "")
    record = android.record(run, phone, context, size="48x32", tool_sha256="")
    assert record.conditions["device-kind"] == kind
    assert android.not_a_phone(record) == (kind != "android")
    # Either mark is enough.
    assert android.not_a_phone(replace(record, device="")) == (kind != "android")
    assert android.not_a_phone(replace(record, conditions={})) == (kind != "android")
