"""A fake adb that speaks the real one's command line, in this process or as a script of its own.

It answers with the real adb's words, exit statuses and streams (taken from adb 29.0.6). Its phone is a folder: what
is pushed lands there, and `shell` runs the command there in a real shell, so that files, rights and removal are real.
The `benchmark_model` that is pushed (fake_benchmark_model.py) prints what TensorFlow's prints, with numbers of its own.

Run as a script it is the adb of the folder that it lies in.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

UNAUTHORIZED = (
    "device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set\n"
    "Try 'adb kill-server' if that seems wrong.\nOtherwise check for a confirmation dialog on your device.\n"
)
STARTING = "* daemon not running; starting now at tcp:5037\n"
Answer = tuple[int, str, str]


def answer(folder: Path, words: Sequence[str]) -> Answer:
    """What adb does with these words: exit status, standard output, standard error."""
    plan = ast.literal_eval((folder / "plan").read_text())
    with (folder / "calls").open("a+") as log:
        log.write(repr(list(words)) + "\n")
        log.seek(0)
        call = sum(1 for _ in log) - 1
    left = "leaves" in plan and call >= plan["leaves"] and (call == plan["leaves"] or not plan.get("returns"))
    devices = {} if left else plan["devices"]
    if "server" in plan:
        return 1, "", STARTING + plan["server"] + "\n"
    words = list(words)
    if words == ["devices", "-l"]:
        rows = "".join(f"{serial:<22} {state}\n" for serial, state in devices.items())
        started = STARTING + "* daemon started successfully\n" if call == 0 else ""
        return 0, "List of devices attached\n" + rows + "\n", started
    serial = words[1] if words[0] == "-s" else next(iter(devices)) if len(devices) == 1 else None
    words = words[2:] if words[0] == "-s" else words
    wrong = trouble(devices, serial)
    if words[0] == "push":
        return push(folder / "phone", plan, wrong, *words[1:])
    breaking = bool(wrong) and words[0] == "shell" and plan.get("breaks")  # it was there when the command began
    if wrong and not breaking:
        return 1, "", "error: " + wrong
    if words == ["get-state"]:
        return 0, "device\n", ""
    assert words[0] == "shell"
    assert len(words) == 2
    status, out, err = shell(folder / "phone", words[1])
    if breaking:
        return 0, out[:len(out) // 2], ""  # so the real one ends: status 0, and no word
    if not plan.get("v2", True):
        # Before Android 7: one stream, a terminal's ends of lines, no exit status.
        return 0, (out + err).replace("\n", "\r\n"), ""
    return status, out, err


def trouble(devices: dict[str, str], serial: str | None) -> str:
    if serial is None:
        return "more than one device/emulator\n" if devices else "no devices/emulators found\n"
    if serial not in devices:
        return f"device '{serial}' not found\n"
    if devices[serial].startswith("unauthorized"):
        return UNAUTHORIZED
    return "device offline\n" if devices[serial].startswith("offline") else ""


def on(phone: Path, text: str) -> str:
    return text.replace("/data/local/tmp", f"{phone}/data/local/tmp").replace("/sys/", f"{phone}/sys/")


def shell(phone: Path, command: str) -> Answer:
    path = f"{phone}/system/bin:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", on(phone, command)], capture_output=True, text=True, env={**os.environ, "PATH": path}, check=False
    )
    return done.returncode, done.stdout.replace(str(phone), ""), done.stderr.replace(str(phone), "")


def push(phone: Path, plan: dict[str, Any], wrong: str, source: str, target: str) -> Answer:
    size = Path(source).stat().st_size
    done = f"{source}: %s 0 skipped. 81.3 MB/s ({size} bytes in 0.006s)\n"
    failed = f"adb: error: failed to copy '{source}' to '{target}': remote "
    nothing = done % "0 files pushed,"
    if wrong and plan.get("breaks"):
        return 1, failed.replace("remote ", "couldn't read from device\n") + nothing, ""
    if wrong:
        return 1, "adb: error: failed to get feature set: " + wrong, ""
    if size > plan.get("space", size):
        return 1, failed + "write failed: No space left on device\n" + nothing, ""
    try:
        Path(on(phone, target)).write_bytes(Path(source).read_bytes()[:plan.get("short", size)])
    except OSError as error:
        return 1, failed + f"couldn't create file: {error.strerror}\n" + nothing, ""
    return 0, done % "1 file pushed,", ""


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
        (self.phone / "data/local/tmp").mkdir(parents=True)
        self.tool = self.script("benchmark_model", "fake_benchmark_model.py")
        self.properties(**PROPERTIES)
        self.command("dumpsys", BATTERY)
        self.system("devices/system/cpu/present", "0-7")
        self.system("devices/system/cpu/cpu0/cpufreq/scaling_governor", "schedutil")
        self.plans()
        self.tool_plan()

    def __call__(self, words: Sequence[str], seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """The `Adb` of the library, without a process for adb itself."""
        return subprocess.CompletedProcess(list(words), *answer(self.folder, words))

    def script(self, name: str, source: str) -> Path:
        """A program in the fake's own folder, made from a file of the tests."""
        text = (Path(__file__).parent / source).read_text()
        return self.write(self.folder / name, f"#!{sys.executable} -SsE\n{text}", 0o755)

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
        """How adb and the connection behave: devices, server, leaves (at which call), returns, breaks, space, ..."""
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


if __name__ == "__main__":
    status, out, err = answer(Path(__file__).parent, sys.argv[1:])
    sys.stdout.write(out)
    sys.stdout.flush()
    sys.stderr.write(err)
    sys.exit(status)
