"""A phone's shell through `adb`: commands, files and a folder of our own on it."""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from abpn_lib.files import DeviceError

Done = subprocess.CompletedProcess[str]
Adb = Callable[[Sequence[str], float], Done]
"""Takes the words after "adb" and the seconds to wait; `run` starts the real one."""

_SECONDS, _PUSH_SECONDS = 60.0, 300.0
_END = "abpn-exit="


def run(words: Sequence[str], seconds: float = _SECONDS) -> Done:
    """Run the installed adb; DeviceError if there is none, or it gives no answer in that time."""
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


_ACCEPT = "accept the prompt on the phone that asks to allow USB debugging, and try again"
_REMEDIES = {
    "unauthorized": _ACCEPT, "authorizing": _ACCEPT, "offline": "unplug it, plug it in again, and wake it up",
    "no permissions": "give your user the right to open it (udev rules; Debian's android-sdk-platform-tools-common)",
}


def devices(adb: Adb = run) -> dict[str, tuple[str, str]]:
    """Every serial number with its state and what to do about it."""
    done = adb(["devices", "-l"], _SECONDS)
    if done.returncode:
        raise DeviceError(f"adb cannot list phones ({_reason(done)}): try `adb kill-server`")
    found = {}
    for line in done.stdout.splitlines():
        match = re.match(r"(\S+)\s+(no permissions|[a-z]+)(\s|$)", line)
        if match and not line.startswith(("*", "List of devices")):
            found[match[1]] = (match[2], _REMEDIES.get(match[2], "start Android on it, and try again"))
    return found


@dataclass(frozen=True)
class Shell:
    """The shell of the phone of one serial number. Every method raises `DeviceError` where the phone goes away."""

    serial: str
    adb: Adb = field(default=run, repr=False, compare=False)

    def run(self, command: str, doing: str, *, seconds: float = _SECONDS) -> tuple[int, str]:
        """Run a command; return its exit status and its output. `doing` says what it is for, should it fail."""
        # The status is printed behind the output: adb passes none on from phones before Android 7, and where a phone
        # leaves in the middle of a command, adb ends with status 0 and says nothing. Then the mark is missing.
        done = self.adb(["-s", self.serial, "shell", f"{command}; echo {_END}$?"], seconds)
        output, mark, status = done.stdout.rpartition(_END)
        if not mark or not status.strip().isdigit():
            raise self._gone(doing, done)
        return int(status), output.replace("\r", "")

    def ask(self, command: str) -> str:
        """What a command prints, or '' where the phone does not have it or does not allow it."""
        status, output = self.run(f"{command} 2>/dev/null", "it was asked what it is")
        return "" if status else output.strip()

    def push(self, source: Path, target: str, name: str) -> None:
        """Copy a file to the phone; `name` is what it is called if that fails."""
        done = self.adb(["-s", self.serial, "push", str(source), target], _PUSH_SECONDS)
        doing, reason = f"{name} was pushed to it", _reason(done)
        if done.returncode:
            self._check_space(reason, name)
            there = self.adb(["-s", self.serial, "get-state"], _SECONDS).stdout.strip() == "device"
            # It may be there again already.
            if not there or re.search(r"feature set|from device|offline|' not found|no devices", reason):
                raise self._gone(doing, done)
            raise DeviceError(f"{name} could not be pushed to {self.serial} ({reason})")
        # Not every adb notices that a disk is full.
        _, size = self.run(f"wc -c < {target}", doing)
        if size.strip() != str(source.stat().st_size):
            raise DeviceError(f"{name} did not arrive whole on {self.serial}: free some space on it, and start again")

    @contextmanager
    def folder(self) -> Iterator[str]:
        """A folder of our own on the phone, which is removed whatever happens, if the phone still answers."""
        folder = f"/data/local/tmp/abpn-{secrets.token_hex(6)}"
        # A run that was interrupted here goes on there. The brackets keep the pattern from finding its own command.
        tidy = f"pkill -f '[/]{folder[1:]}/benchmark_model' 2>/dev/null; rm -rf {folder}"
        try:
            status, output = self.run(f"mkdir {folder} 2>&1", "a folder was made on it")
            if status:
                self._check_space(output, "a folder")
                raise DeviceError(f"{self.serial} lets us make no folder in /data/local/tmp ({output.strip()})")
            yield folder
        except BaseException as error:
            try:
                self.run(tidy, "its folder was removed")
            except DeviceError as second:
                if isinstance(error, DeviceError):
                    raise DeviceError(f"{error} ({folder} stays behind on it)") from second
            raise
        self.run(tidy, f"{folder} was removed from it")

    def _gone(self, doing: str, done: Done) -> DeviceError:
        reason = _reason(done)
        why = f" ({reason})" if "error" in reason or "adb" in reason else ""
        return DeviceError(f"{self.serial} went away while {doing}{why}: plug it in, keep it awake, and start again")

    def _check_space(self, reason: str, name: str) -> None:
        if "no space left" in reason.lower():
            raise DeviceError(f"no space is left on {self.serial} for {name}: free some, and start again")


def _reason(done: Done) -> str:
    """The line in which adb says what is wrong: by its version on standard error or, for a push, on standard output."""
    said = f"{done.stdout}\n{done.stderr}".splitlines()
    lines = [line.strip() for line in said if line.strip() and not line.startswith("*")]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "it says nothing")
