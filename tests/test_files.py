from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from abpn_lib import files


def test_a_file_is_written_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    files.write_atomically(path, b"first")
    files.write_atomically(path, b"second, longer")
    assert path.read_bytes() == b"second, longer"
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        files.write_atomically(path, "text, not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_folder_in_the_way_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        files.write_atomically(tmp_path / "taken", b"content")
    assert os.listdir(tmp_path) == ["taken"]


def test_a_missing_folder_is_an_os_error_naming_the_path(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        files.write_atomically(tmp_path / "nowhere" / "file", b"content")


def test_what_is_too_large_names_the_file_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(b"old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match=r"too large.*record\.json"):
            files.write_atomically(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_name_may_be_as_long_as_a_name_can_be(tmp_path: Path) -> None:
    files.write_atomically(tmp_path / ("x" * 255), b"content")
    with pytest.raises(OSError, match="x" * 256):
        files.write_atomically(tmp_path / ("x" * 256), b"content")
    assert os.listdir(tmp_path) == ["x" * 255]


WRITE_FOREVER = """
import sys
from pathlib import Path
from abpn_lib.files import write_atomically
for i in range(10**9):
    write_atomically(Path(sys.argv[1]), bytes([i % 256]) * 2_000_000)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "big"
    writer = subprocess.Popen([sys.executable, "-c", WRITE_FOREVER, str(path)])
    try:
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)  # so that the kill falls somewhere within a later write
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    content = path.read_bytes()
    assert len(content) == 2_000_000
    assert len(set(content)) == 1


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"abc" * 100_000)
    assert files.sha256(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()
    path.write_bytes(b"")
    assert files.sha256(path) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
