from __future__ import annotations

import datetime
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import abpn_lib
from abpn_lib import results
from abpn_lib.files import DataError
from abpn_lib.results import Context, Record

HERE = Context("abpn evaluate", "a CPU", {"python": "3.11"}, "0123abcd", "2026-11-01")


def test_a_record_carries_its_context_and_names_what_it_measures() -> None:
    conditions = {"protocol": "rgb-border1", "dataset": "set5"}
    record = HERE.record("psnr", "abpn-int8-qat", 29, "dB", conditions=conditions, count=5)
    assert record.id == "psnr/abpn-int8-qat[dataset=set5,protocol=rgb-border1]"
    assert HERE.record("parameters", "abpn", 42539, "").id == "parameters/abpn"
    assert (record.command, record.device, record.commit, record.date) == (
        HERE.command, HERE.device, HERE.commit, HERE.date,
    )
    assert isinstance(record.value, float)
    assert record.kind == "measured"


def test_records_come_back_from_disk_as_recorded_ones(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    records = [
        HERE.record(
            "latency", "node-add", 1.25, "ms", conditions={"size": "1920x1080", "threads": "1"}, count=15,
            spread=(1.0, 1.5), spread_is="95 % interval of the median", model_sha256="ab" * 32, seed=3,
        ),
        HERE.record("psnr", "bicubic", 28.634, "dB"),
    ]
    results.save(path, records)
    measured = results.load(path, "measured")
    assert measured == records
    recorded = results.load(path)
    assert {record.kind for record in recorded} == {"recorded"}
    assert [record.id for record in recorded] == [record.id for record in records]
    assert recorded[0].spread == (1.0, 1.5)
    assert recorded[1].spread is None
    assert os.listdir(tmp_path) == ["records.json"]
    # Plain JSON, for any reader; which kind a value is depends on who reads it, so it is not stored.
    rows = json.loads(path.read_text())
    assert rows[0]["value"] == 1.25
    assert "kind" not in rows[0]


GOOD = {
    "quantity": "psnr", "subject": "abpn", "value": 29.0, "unit": "dB", "command": "c", "device": "d", "versions": {},
    "commit": "", "date": "2026-11-01",
}


@pytest.mark.parametrize(
    "content",
    [
        "", "not JSON", "{}x", "3", '["text"]', '{"quantity": "psnr"}',
        json.dumps([{key: value for key, value in GOOD.items() if key != "value"}]),
        json.dumps([{**GOOD, "value": "high"}]),
        json.dumps([{**GOOD, "unknown": 1}]),
        json.dumps([{**GOOD, "spread": 3}]),
    ],
)
def test_a_malformed_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"bad\.json is not a file of records") as caught:
        results.load(path)
    assert "\n" not in str(caught.value)


def test_a_good_row_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text(json.dumps([GOOD]))
    assert results.load(tmp_path / "good.json") == [Record(**GOOD)]


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json"):
        results.load(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"binary\.json"):
        results.load(tmp_path / "binary.json")


def test_find_prefers_what_was_just_measured() -> None:
    conditions = {"dataset": "set5", "protocol": "rgb-border1"}
    recorded = Record(**{**GOOD, "conditions": conditions})
    measured = HERE.record("psnr", "abpn", 30.0, "dB", conditions=conditions)
    other = HERE.record("psnr", "abpn", 31.0, "dB", conditions={**conditions, "dataset": "set14"})
    records = [other, recorded, measured]
    assert results.find(records, "psnr", "abpn", **conditions) is measured
    assert results.find([other, recorded], "psnr", "abpn", dataset="set5") is recorded
    assert results.find(records, "psnr", "abpn", dataset="set14") is other
    assert results.find(iter(records), "psnr", "abpn", dataset="set5") is measured


@pytest.mark.parametrize(
    ("quantity", "subject", "dataset"),
    [("ssim", "abpn", "set5"), ("psnr", "fsrcnn", "set5"), ("psnr", "abpn", "set14")],
)
def test_find_names_what_is_not_there(quantity: str, subject: str, dataset: str) -> None:
    records = [HERE.record("psnr", "abpn", 30.0, "dB", conditions={"dataset": "set5"})]
    with pytest.raises(DataError, match=f"no record of {quantity}/{subject}.*{dataset}"):
        results.find(records, quantity, subject, dataset=dataset)


def test_shipped_records_are_whole() -> None:
    for record in results.recorded():
        assert record.kind == "recorded"
        assert math.isfinite(record.value)
        assert record.command
        assert record.device
        assert record.versions["python"]
        assert datetime.date.fromisoformat(record.date)
        if record.spread:
            assert record.spread[0] <= record.value <= record.spread[1]
            assert record.spread_is


def test_the_context_here_is_this_machines() -> None:
    here = Context.here("abpn bench")
    assert here.command == "abpn bench"
    assert here.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert here.versions["numpy"]
    assert f"{os.cpu_count()} logical CPUs" in here.device
    assert datetime.date.fromisoformat(here.date)


COMMIT = "import sys; sys.path.insert(0, '.'); from abpn_lib.results import Context; print(Context.here('x').commit)"


def test_the_commit_is_the_codes_own(tmp_path: Path) -> None:
    """A checkout says its commit, with + where changed; a copy inside another repository says nothing."""
    package = Path(abpn_lib.__file__).parent
    environment = {key: value for key, value in os.environ.items() if key != "ABPN_COMMIT"}

    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    def commit(**more: str) -> str:
        command = [sys.executable, "-c", COMMIT]
        answer = subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True, env={**environment, **more}
        )
        return answer.stdout.strip()

    (tmp_path / "abpn_lib").mkdir()
    for name in ("__init__.py", "files.py", "results.py"):
        shutil.copy(package / name, tmp_path / "abpn_lib" / name)
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    assert commit() == ""
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "somebody's")
    assert commit() == ""
    git("add", ".")
    git("commit", "-q", "-m", "ours")
    assert commit() == git("rev-parse", "--short=12", "HEAD")
    (tmp_path / "abpn_lib" / "files.py").write_text((package / "files.py").read_text() + "# changed\n")
    assert commit() == git("rev-parse", "--short=12", "HEAD") + "+"
    assert commit(ABPN_COMMIT="feedbeef") == "feedbeef"
