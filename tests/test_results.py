from __future__ import annotations

import datetime
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import abpn_lib
from abpn_lib import results
from abpn_lib.files import DataError
from abpn_lib.results import Context, Record

HERE = Context("abpn evaluate", "a CPU", {"python": "3.11"}, "0123abcd", "2026-11-01")


def test_a_record_carries_its_context_and_names_what_it_measures() -> None:
    record = HERE.record("psnr", "abpn-seed1-int8-qat", 29, "dB", dataset="set5", protocol="rgb-border1", count=5)
    assert record.columns == {
        "network": "abpn", "seed": 1, "form": "int8-qat", "dataset": "set5", "protocol": "rgb-border1",
    }
    assert record.id == "psnr/abpn-seed1-int8-qat[dataset=set5,protocol=rgb-border1]"
    assert HERE.record("parameters", "abpn", 42539, "").id == "parameters/abpn"
    assert (record.context, record.kind) == (HERE, "measured")
    assert isinstance(record.value, float)
    assert str(record.shown) == "■ 29.00 dB"


@pytest.mark.parametrize(
    "name", ["bicubic", "abpn", "abpn-fp32", "fsrl-seed2-int8-ptq-tensor", "abpn-int8-ptq/authors-int8-qat-time",
             "abpn-long-int8-ptq#3 CONV_2D", "node-conv3", "abpn-int8-pairs3"],
)
def test_a_name_is_the_inverse_of_its_columns(name: str) -> None:
    assert HERE.record("latency", name, 1.0, "ms").subject == name


def test_records_come_back_from_disk_as_recorded_ones_with_contexts_once(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    records = [
        HERE.record(
            "latency", "node-add", 1.25, "ms", size="1920x1080", threads=1, count=15,
            spread=(1.0, 1.5), spread_is="95 % interval of the median", model_sha256="ab" * 32,
        ),
        HERE.record("psnr", "bicubic", 28.634, "dB"),
    ]
    results.save(path, records)
    assert results.load(path, "measured") == records
    recorded = results.load(path)
    assert {record.kind for record in recorded} == {"recorded"}
    assert [record.id for record in recorded] == [record.id for record in records]
    assert os.listdir(tmp_path) == ["records.json"]
    # Plain JSON, for any reader; which kind a value is depends on who reads it, so it is not stored.
    content = json.loads(path.read_text())
    assert len(content["contexts"]) == 1
    assert content["records"][0]["value"] == 1.25
    assert "kind" not in content["records"][0]


CONTEXT = {"command": "c", "device": "d", "versions": {}, "commit": "", "date": "2026-11-01"}
GOOD = {"quantity": "latency", "network": "abpn", "form": "int8-ptq", "value": 29.0, "unit": "ms", "context": 0}


def written(path: Path, row: object, context: object = CONTEXT) -> Path:
    path.write_text(json.dumps({"contexts": [context], "records": [row]}))
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"value": None}, {"value": "high"}, {"value": True}, {"value": float("nan")}, {"value": float("inf")},
        {"value": -5}, {"value": 0}, {"value": 1e-320}, {"value": 10**400}, {"spread": 3}, {"spread": [1, 2, 3]},
        {"spread": [2, 1]}, {"spread": [1, float("inf")]}, {"count": "many"}, {"count": 0}, {"count": True},
        {"seed": "one"}, {"size": 3.5}, {"size": ["640x360"]}, {"context": 7}, {"context": "0"}, {"unit": 3},
    ],
    ids=str,
)
def test_an_impossible_record_is_refused_by_its_files_name(tmp_path: Path, change: dict) -> None:
    with pytest.raises(DataError, match=r"bad\.json is not a file of records") as caught:
        results.load(written(tmp_path / "bad.json", {**GOOD, **change}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    ["", "not JSON", "{}x", "3", '["text"]', "[]", '{"contexts": []}', '{"contexts": 3, "records": []}', "[" * 100_000,
     '{"contexts": [{"device": "d"}], "records": []}', '{"contexts": [], "records": [{}]}'],
    ids=lambda content: content[:20],
)
def test_a_malformed_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"bad\.json is not a file of records"):
        results.load(path)


def test_a_context_must_be_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"bad\.json"):
        results.load(written(tmp_path / "bad.json", GOOD, {**CONTEXT, "device": None}))
    good = results.load(written(tmp_path / "good.json", GOOD))
    assert [record.subject for record in good] == ["abpn-int8-ptq"]


def test_a_missing_a_binary_and_an_endless_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json"):
        results.load(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"binary\.json"):
        results.load(tmp_path / "binary.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match=r"pipe\.json"):
        results.load(tmp_path / "pipe.json")


def psnr(name: str, value: float, dataset: str = "set5", **columns: str) -> Record:
    return HERE.record("psnr", name, value, "dB", dataset=dataset, **{"protocol": "rgb-border1", **columns})


def test_the_frame_is_tidy_and_measured_beats_recorded() -> None:
    records = [
        replace(psnr("abpn-fp32", 30.0), kind="recorded"), psnr("abpn-fp32", 31.0), psnr("abpn-seed1-fp32", 32.0),
        psnr("abpn-fp32", 28.0, "set14"), psnr("abpn-fp32", 33.0, protocol="y-border3"),
        psnr("abpn-fp32", 20.0, image="baby"), psnr("fsrl-fp32", 29.0),
    ]
    frame = results.frame("psnr", records, network="abpn", dataset=["set5", "set14"])
    assert [(row.dataset, row.seed, float(row.value)) for row in frame.itertuples()] == [
        ("set5", 0, 31.0), ("set5", 1, 32.0), ("set14", 0, 28.0),
    ]
    assert list(map(float, results.frame("psnr", records, network="abpn", seed=0, image="baby").value)) == [20.0]
    assert len(results.frame("psnr", records, network="abpn", dataset="set5", image=results.ANY)) == 3
    assert results.frame("psnr", records, network="nobody").empty
    assert results.find("psnr", records, network="abpn", dataset="set5", seed=0).value == 31.0
    with pytest.raises(DataError, match=r"no record of psnr.*nobody"):
        results.find("psnr", records, network="nobody")


def test_shipped_records_are_whole() -> None:
    for record in results.recorded():
        assert record.kind == ("estimated" if "compiler" in record.columns else "recorded")
        assert math.isfinite(record.value)
        assert record.context.command
        assert record.context.device
        assert record.context.versions["python"]
        assert datetime.date.fromisoformat(record.context.date)
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
    for name in ("__init__.py", "files.py", "results.py", "values.py"):
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
