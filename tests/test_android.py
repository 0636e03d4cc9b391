"""A phone through `adb`, as far as that goes without one: a fake adb (fake_adb.py) that speaks its command line.

Most tests call it in this process; those of the real command line start it as the `adb` that stands on PATH. Nothing
that is measured here is a device's time. The fake says what it is, the library marks its records, and a test below
guards the shipped ones.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_adb import USUAL, Fake

from abpn_lib import cli, models, results
from abpn_lib.files import DeviceError, sha256
from abpn_lib.timing import adb, android, latency

MODEL = "abpn-int8-ptq"
CONTEXT = results.Context("abpn latency --device android:FA1", "this machine", {"abpn-lib": "9", "numpy": "1"}, "", "")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    (tmp_path / "fake-adb").mkdir()
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    return Fake(tmp_path / "fake-adb")


@pytest.fixture
def on_path(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """The fake as a program, for the tests of the command."""
    fake.script("adb", "fake_adb.py")
    monkeypatch.setenv("PATH", f"{fake.folder}{os.pathsep}{os.environ['PATH']}")
    return fake


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of one size: none has to be made for every test."""
    path = tmp_path_factory.mktemp("small") / f"{MODEL}.tflite"
    path.write_bytes(latency.fixed_copy(models.find(MODEL), "48x32"))
    return {MODEL: path}


def cpu(*threads: int) -> list[android.Setting]:
    return [android.Setting("xnnpack", count) for count in threads]


GPU, NNAPI = android.Setting("gpu", 1), android.Setting("nnapi", 1)


def follow(fake: Fake, files: dict[str, Path], *chosen: android.Setting, rounds: int = 20) -> Any:
    return android.follow(android.find(adb=fake), fake.tool, files, chosen, CONTEXT, size="48x32", rounds=rounds)


def run_all(fake: Fake, files: dict[str, Path], *chosen: android.Setting) -> list[android.Run]:
    return list(follow(fake, files, *chosen))


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
    found, _ = report
    assert (found["count"], found["spread_is"]) == (count, spread_is)
    assert (found["value"], *found["spread"]) == pytest.approx((value, low, high))


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
    assert report[1] == taken


# A phone that does as it should


def test_every_setting_is_measured_and_the_phone_is_left_clean(fake: Fake, small: dict[str, Path]) -> None:
    phone = android.find(adb=fake)
    chosen = android.settings(phone)
    assert [setting.name for setting in chosen] == ["CPU x1", "CPU x2", "CPU x4", "CPU x8", "GPU", "NNAPI"]
    both = {**small, "other": models.find("abpn-fp32")}
    runs = run_all(fake, both, *chosen)
    # Models take turns within a setting.
    assert [(run.subject, run.setting) for run in runs] == [(name, setting) for setting in chosen for name in both]
    assert not any(run.refusal for run in runs)
    medians = [run.record.value for run in runs if run.record and run.subject == "other"]
    assert medians[:4] == sorted(medians[:4], reverse=True)
    assert len(set(medians)) == len(medians) == 6
    assert fake.left_behind == []
    (made,) = [words[-1] for words in fake.calls if "mkdir" in words[-1]]
    assert made.startswith("mkdir /data/local/tmp/abpn-")


def test_what_a_phone_says_of_itself_is_in_its_records(fake: Fake, small: dict[str, Path]) -> None:
    phone = android.find(adb=fake)
    assert phone.name == (
        "NOT A PHONE, a fake: abpn fake adb of the tests, SoC SC1234, Android 14, arm64-v8a, 8 cores, "
        "CPU governor schedutil"
    )
    (run,) = run_all(fake, small, *cpu(4))
    record = run.record
    assert record is not None
    assert (record.quantity, record.subject, record.unit, record.kind) == ("latency", MODEL, "ms", "measured")
    assert record.spread is not None
    assert record.spread[0] < record.value < record.spread[1]
    assert (record.count, record.spread_is, record.model_sha256) == (20, MIDDLE, sha256(small[MODEL]))
    assert record.columns == {
        "network": "abpn", "form": "int8-ptq", "size": "48x32", "threads": 4, "kernels": "xnnpack",
        "device-kind": "fake", "delegated": "wholly", "before": "battery 31.2 °C", "after": "battery 31.2 °C",
    }
    assert (record.context.device, record.context.command) == (phone.name, "abpn latency --device android")
    assert "FA1" not in f"{record} {run.line}"
    assert record.context.versions == {
        "abpn-lib": "9", "android": "14", "benchmark_model": f"sha256 {sha256(fake.tool)}",
    }


def test_the_soc_has_several_names_and_a_phone_must_say_what_it_is(fake: Fake) -> None:
    for properties, soc in (
        ({"ro.soc.model": "SM8550"}, "SM8550"),
        ({"ro.soc.model": "", "ro.board.platform": "msm8996", "ro.hardware": "qcom"}, "msm8996"),
        ({"ro.hardware": "qcom"}, "qcom"),
        ({}, "unknown"),
    ):
        named = {"ro.product.model": "fake adb of the tests", "ro.build.version.release": "6.0.1", **properties}
        fake.properties(**named)
        assert f", SoC {soc}, Android 6.0.1" in android.find(adb=fake).name
    for properties in ({}, {"ro.product.model": "Pixel 7"}, {"ro.build.version.release": "14"}):
        fake.properties(**properties)
        with pytest.raises(DeviceError, match="FA1 does not say what it is"):
            android.find(adb=fake)


def test_a_phone_may_keep_things_to_itself(fake: Fake, small: dict[str, Path]) -> None:
    def after() -> object:
        (run,) = run_all(fake, small, *cpu(1))
        assert run.record is not None
        return run.record.get("after")

    (fake.phone / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").unlink()
    fake.command("dumpsys", "Can't find service: battery\n")
    fake.system("devices/system/cpu/present", "0-1,4")
    fake.system("class/thermal/thermal_zone0/temp", "38500")
    phone = android.find(adb=fake)
    assert phone.cores == 3
    assert phone.name.endswith("3 cores, CPU governor unknown")
    assert [setting.threads for setting in android.settings(phone)] == [1, 2, 1, 1]
    assert [setting.threads for setting in android.settings(phone, 6)] == [6, 1, 1]
    assert after() == "thermal zone 38.5 °C"
    fake.system("class/thermal/thermal_zone0/temp", "39")
    assert after() == "thermal zone 39.0 °C"
    (fake.phone / "sys/class/thermal/thermal_zone0/temp").unlink()
    assert after() is None


def test_an_old_phone_and_an_old_tool_do_too(fake: Fake, small: dict[str, Path]) -> None:
    fake.plans(v2=False)
    fake.tool_plan(old=True, takes={"gpu": "refuses", "nnapi": "old", "xnnpack": "partially"})
    one, gpu, nnapi = run_all(fake, small, *cpu(1), GPU, NNAPI)
    assert one.record is not None
    assert (one.record.spread_is, one.record.get("delegated")) == (ENDS, "partly")
    assert gpu.record is None
    assert "ANEURALNETWORKS_OP_FAILED" in gpu.refusal
    assert nnapi.record is not None
    assert nnapi.record.get("delegated") is None
    assert fake.left_behind == []


def test_several_phones_are_told_apart(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.plans(devices={"FA1": USUAL, "192.168.1.20:5555": USUAL, "FA3": "offline transport_id:3"})
    with pytest.raises(DeviceError, match=r"several phones, FA1 \(device\), .*, FA3 \(offline\): name one"):
        android.find(adb=fake)
    assert android.find("192.168.1.20:5555", adb=fake).shell.serial == "192.168.1.20:5555"
    monkeypatch.setenv("ANDROID_SERIAL", "FA1")
    assert android.find(adb=fake).shell.serial == "FA1"


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
    fake: Fake, small: dict[str, Path], setting: android.Setting, plan: dict[str, Any], why: str
) -> None:
    fake.tool_plan(**plan)
    first, second, third = run_all(fake, small, *cpu(1), setting, *cpu(2))
    assert first.record is not None
    assert third.record is not None
    assert second.record is None
    assert why in second.refusal
    assert "\n" not in second.line
    assert fake.left_behind == []


def test_kernels_are_those_that_ran(fake: Fake, small: dict[str, Path]) -> None:
    fake.tool_plan(takes={"xnnpack": "nothing", "gpu": "partially"})
    runs = run_all(fake, small, *cpu(1), GPU, android.Setting("builtin", 2))
    records = [run.record for run in runs if run.record]
    assert [record.get("kernels") for record in records] == ["builtin", "gpu", "builtin"]
    assert [record.get("delegated") for record in records] == [None, "partly", None]
    flags = [words[-1] for words in fake.calls if "--graph" in words[-1]]
    for asked, flag in zip(flags, ("--use_xnnpack=true", "--use_gpu=true", "--use_xnnpack=false"), strict=True):
        assert flag in asked


def test_nodes_keep_their_own_sizes(fake: Fake, small: dict[str, Path]) -> None:
    (run,) = android.follow(
        android.find(adb=fake), fake.tool, {"node-add": small[MODEL]}, cpu(1), CONTEXT, size="144x96", channels=28
    )
    assert run.record is not None
    assert (run.record.get("size"), run.record.get("channels")) == ("144x96", 28)


# A phone that does not do as it should: one line, and what was measured stays


@pytest.mark.parametrize(("plan", "serial", "message"), [
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
def test_a_phone_that_cannot_be_used_is_named(
    fake: Fake, plan: dict[str, Any], serial: str | None, message: str
) -> None:
    fake.plans(**plan)
    with pytest.raises(DeviceError) as caught:
        android.find(serial, adb=fake)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_fake_has_adb_s_own_words_too(on_path: Fake) -> None:
    """What the library reads from `adb devices` comes from other commands as well: the fake agrees with itself."""
    def says(*words: str) -> tuple[int, str]:
        done = subprocess.run(["adb", *words], capture_output=True, text=True)
        return done.returncode, (done.stdout + done.stderr).strip()

    assert says("-s", "x", "get-state") == (1, "error: device 'x' not found")
    assert says("get-state") == (0, "device")
    on_path.plans(devices={})
    assert says("shell", "true") == (1, "error: no devices/emulators found")
    assert says("push", "/dev/null", "/x") == (1, "adb: error: failed to get feature set: no devices/emulators found")
    on_path.plans(devices={"a": USUAL, "b": USUAL})
    assert says("shell", "true") == (1, "error: more than one device/emulator")
    on_path.plans(devices={"a": "unauthorized"})
    assert says("-s", "a", "shell", "true")[1].startswith("error: device unauthorized.\n")
    on_path.plans(devices={"a": "offline"})
    assert says("-s", "a", "shell", "true") == (1, "error: device offline")


def test_without_adb_the_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="adb is not installed: install"):
        android.find()


@pytest.mark.parametrize(("plan", "message"), [
    ({"space": 2000}, "no space is left on FA1 for benchmark_model: free some"),
    ({"space": 20000}, f"no space is left on FA1 for {MODEL}: free some"),
    ({"short": 9000}, f"{MODEL} did not arrive whole on FA1"),
])
def test_a_full_phone_is_named(fake: Fake, small: dict[str, Path], plan: dict[str, Any], message: str) -> None:
    assert fake.tool.stat().st_size < 9000 < 20000 < small[MODEL].stat().st_size
    fake.plans(**plan)
    with pytest.raises(DeviceError) as caught:
        run_all(fake, small, *cpu(1))
    assert message in str(caught.value)
    assert fake.left_behind == []


@pytest.mark.parametrize(("mkdir", "match"), [
    # A folder stands where the file is to go.
    ('exec /bin/mkdir -p "$1/benchmark_model"', r"model could not be pushed to FA1 \(adb: error: .*Is a dir"),
    ("echo 'mkdir: Permission denied' >&2; exit 1", r"no folder in /data/local/tmp \(mkdir: Permission denied\)"),
    ("echo 'mkdir: No space left on device' >&2; exit 1", "no space is left on FA1 for a folder"),
])
def test_a_push_that_fails_is_named(fake: Fake, small: dict[str, Path], mkdir: str, match: str) -> None:
    fake.write(fake.phone / "system/bin/mkdir", f"#!/bin/sh\n{mkdir}\n", 0o755)
    with pytest.raises(DeviceError, match=match):
        run_all(fake, small, *cpu(1))
    assert fake.left_behind == []


@pytest.mark.parametrize("content", [
    b"\x7fELF\x02\x01\x01\x00" + b"\x00" * 8 + b"\x03\x00\xb7\x00" + b"\x00" * 100,  # made for another processor
    b"#!/bin/sh\necho \"/system/bin/sh: benchmark_model: not executable: 64-bit ELF file\" >&2; exit 126\n",
    b"#!/bin/sh\necho 'CANNOT LINK EXECUTABLE: library \"libc++_shared.so\" not found' >&2; exit 1\n",
])
def test_a_tool_that_cannot_run_is_named(fake: Fake, small: dict[str, Path], content: bytes) -> None:
    fake.tool.write_bytes(content)
    with pytest.raises(DeviceError, match=r"cannot run on FA1, which is arm64-v8a \(.*\): name one"):
        run_all(fake, small, *cpu(1))
    assert fake.left_behind == []


# Gone for good, with adb's error; or the connection breaks within a command, and is there again at the next.
WAYS: tuple[dict[str, bool], ...] = ({}, {"breaks": True, "returns": True})


def goes_away(fake: Fake, small: dict[str, Path], call: int, calls: list[list[str]], way: dict[str, bool]) -> None:
    """Let the phone go away at one of the calls of a whole run: one line says so, and nothing else is left."""
    fake.plans()
    runs = follow(fake, small, *cpu(1), GPU, rounds=3)  # it finds the phone before the first call of the run
    fake.plans(leaves=call, **way)
    yielded: list[android.Run] = []
    words = calls[call]
    with pytest.raises(DeviceError) as caught:
        yielded.extend(runs)
    # A run counts once the temperature behind it is known.
    timed = [number for number, each in enumerate(calls) if "--graph" in each[-1]]
    assert len(yielded) == sum(number + 1 < call for number in timed), words
    message = str(caught.value)
    assert "FA1 went away while" in message, words
    assert "\n" not in message
    last = call == len(calls) - 1
    # A push that fails is followed by a question whether the phone is there.
    asked = [False] if "push" in words else []
    assert ["rm -rf" in then[-1] for then in fake.calls[call + 1:]] == ([] if last else [*asked, True])
    for left in fake.left_behind:
        # It cannot be removed from a phone that is not there; the line says that.
        assert not way or last
        assert f"/data/local/tmp/{left}" in message
        shutil.rmtree(fake.phone / "data/local/tmp" / left)


def calls_of_a_run(fake: Fake, small: dict[str, Path]) -> list[list[str]]:
    runs = follow(fake, small, *cpu(1), GPU, rounds=3)
    fake.plans()
    assert len(list(runs)) == 2
    return fake.calls


def test_a_phone_may_go_away(fake: Fake, small: dict[str, Path]) -> None:
    calls = calls_of_a_run(fake, small)
    push = next(number for number, words in enumerate(calls) if "push" in words)
    for call in (push, [number for number, words in enumerate(calls) if "--graph" in words[-1]][1], len(calls) - 1):
        goes_away(fake, small, call, calls, WAYS[call == push])


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_phone_may_go_away_at_any_call(fake: Fake, small: dict[str, Path], way: dict[str, bool]) -> None:
    calls = calls_of_a_run(fake, small)
    for call in range(len(calls)):
        goes_away(fake, small, call, calls, way)


def test_a_phone_may_go_away_while_it_is_looked_at(fake: Fake) -> None:
    android.find(adb=fake)
    for number in range(1, len(fake.calls)):
        fake.plans(leaves=number)
        with pytest.raises(DeviceError, match=r"FA1 went away .* \(error: device 'FA1' not found\)"):
            android.find(adb=fake)


def test_a_phone_that_hangs_is_given_up(on_path: Fake) -> None:
    on_path.write(on_path.phone / "system/bin/getprop", "#!/bin/sh\nexec sleep 5\n", 0o755)
    with pytest.raises(DeviceError, match=r"gave no answer in 0\.5 s: wake the phone up"):
        adb.run(["-s", "FA1", "shell", "getprop"], 0.5)


def test_whoever_stops_early_leaves_nothing_behind(fake: Fake, small: dict[str, Path]) -> None:
    with contextlib.closing(follow(fake, small, *cpu(1, 2), rounds=3)) as runs:
        next(runs)
        assert len(fake.left_behind) == 1
    assert fake.left_behind == []


# The command


def latency_on(fake: Fake, *words: str | Path) -> int:
    return cli.main(["latency", "--device", "android", "--benchmark-model", str(fake.tool), *map(str, words)])


def test_the_command_measures_table_3(
    on_path: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "phone.json"
    on_path.system("devices/system/cpu/present", "0")
    on_path.tool_plan(takes={"nnapi": "refuses", "gpu": "partially"})
    assert latency_on(on_path, "--out", out, "--size", "48x32") == 0
    printed = capsys.readouterr()
    assert "NOT A PHONE" in printed.out
    assert printed.err.count("does not run on NNAPI: NN API returned error") == 4
    records = results.load(out, "measured")
    names = ["fsrcnn-fp32", "fsrcnn-int8-ptq", "abpn-fp32", "abpn-int8-ptq"]
    assert [(r.subject, r.get("kernels"), r.get("threads")) for r in records] == [
        (name, kernels, 1) for kernels in ("xnnpack", "gpu") for name in names
    ]
    for record in records:
        assert (record.get("size"), record.count) == ("48x32", 50)
        assert record.model_sha256 == sha256(models.find(record.subject))
        assert f"{record.value:9.2f} ms" in printed.out
    assert on_path.left_behind == []


def test_the_fake_judges_no_claim_but_a_phone_does(
    fake: Fake, small: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "phone.json"
    files = dict.fromkeys(android.MODELS, small[MODEL])
    runs = android.follow(android.find(adb=fake), fake.tool, files, cpu(1), CONTEXT, size="640x360", channels=3)
    records = [
        replace(run.record, columns={k: v for k, v in run.record.columns.items() if k != "channels"})
        for run in runs if run.record
    ]
    results.save(out, records)
    assert cli.main(["claims", "--json", "--add", str(out)]) == 2
    assert "not from a phone" in capsys.readouterr().err
    phone = replace(records[0].context, device="phone: of the test's making")
    renamed = [
        replace(record, context=phone, columns={**record.columns, "device-kind": "android"}) for record in records
    ]
    results.save(out, renamed)
    assert cli.main(["claims", "--json", "--add", str(out)]) == 0
    ledger = {entry["id"]: entry for entry in json.loads(capsys.readouterr().out)}
    # The CPU's claim is judged by the CPU's times.
    assert phone.device in json.dumps(ledger["T3.abpn.cpu"])


def test_the_command_times_given_models_and_prints_json(on_path: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    words = (MODEL, "--size", "48x32", "--threads", "2", "--kernels", "builtin", "--rounds", "5", "--json")
    assert cli.main(["latency", *words, "--device", "android:FA1", "--benchmark-model", str(on_path.tool)]) == 0
    printed = capsys.readouterr().out
    rows = json.loads(printed)
    assert [row["kernels"] for row in rows] == ["builtin", "gpu", "nnapi"]
    assert (rows[0]["threads"], rows[0]["size"], rows[0]["count"]) == (2, "48x32", 5)
    # Records are passed on; whose phone it was stays here.
    assert "FA1" not in printed
    assert "--device android " in rows[0]["command"]


def test_results_so_far_are_kept_when_the_phone_goes_away(
    on_path: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "phone.json"
    on_path.system("devices/system/cpu/present", "0-1")
    words = (MODEL, "--size", "48x32", "--rounds", "3")
    assert latency_on(on_path, *words, "--out", out) == 0
    whole = results.load(out)
    timed = [number for number, each in enumerate(on_path.calls) if "--graph" in each[-1]]
    out.unlink()
    capsys.readouterr()
    on_path.plans(leaves=timed[2])
    assert latency_on(on_path, *words, "--out", out) == 2
    assert [(r.value, r.columns) for r in results.load(out)] == [(r.value, r.columns) for r in whole[:2]]
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "went away while abpn-int8-ptq ran on its GPU" in line
    assert line.endswith(f"the 2 results so far are in {out}")
    # Without a file they are printed.
    on_path.plans(leaves=timed[1])
    assert latency_on(on_path, *words, "--json") == 2
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)) == 1
    assert printed.err.strip().endswith("the 1 results so far are in standard output")


def test_the_command_answers_every_failure_with_one_line(
    on_path: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str | Path, mentions: str) -> None:
        assert cli.main(["latency", MODEL, "--size", "48x32", *map(str, words)]) == 2
        printed = capsys.readouterr()
        line = printed.err.strip().splitlines()[-1]
        assert mentions in line, printed.err
        assert line.startswith("abpn: ")

    tool = ("--benchmark-model", on_path.tool)
    refused("--device", "android", mentions="_benchmark_model and name the file with --benchmark-model PATH")
    refused("--device", "android", "--benchmark-model", tmp_path / "nothing", mentions="nothing is not a file")
    refused("--device", "iphone", *tool, mentions="only android, or android:SERIAL, is known")
    refused(*tool, mentions="name it with --device android")
    refused("--device", "android:FA9", *tool, mentions="'FA9'")
    assert not [words for words in on_path.calls if "mkdir" in words[-1]]
    on_path.system("devices/system/cpu/present", "0")
    on_path.tool_plan(takes=dict.fromkeys(("xnnpack", "gpu", "nnapi"), "refuses"))
    refused("--device", "android", *tool, "--out", tmp_path / "r.json", mentions="FA1: no model ran on it")
    assert not (tmp_path / "r.json").exists()
    assert on_path.left_behind == []


def test_an_interrupted_command_stops_the_tool_and_tidies_up(on_path: Fake, tmp_path: Path) -> None:
    started = tmp_path / "started"
    on_path.tool_plan(sleeps=str(started))
    words = ["latency", MODEL, "--size", "48x32", "--device", "android", "--benchmark-model", str(on_path.tool)]
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
            _, printed = command.communicate(timeout=60)
        finally:
            command.kill()
    assert command.returncode == 130
    assert printed.strip().endswith("abpn: interrupted")
    assert on_path.left_behind == []
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
    fake: Fake, small: dict[str, Path], properties: dict[str, str], kind: str
) -> None:
    fake.properties(**properties, **{"ro.build.version.release": "14"})
    (run,) = run_all(fake, small, GPU)
    record = run.record
    assert record is not None
    assert record.get("device-kind") == kind
    assert ("NOT A PHONE" in record.context.device) == (kind != "android")
    # Either mark is enough.
    for part in (record, replace(record, columns={}), replace(record, context=replace(record.context, device=""))):
        assert android.not_a_phone(part) == (kind != "android")
