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
from typing import Any

import pytest

import abpn_lib
from abpn_lib import results
from abpn_lib.files import DataError
from abpn_lib.results import Context, Record

HERE = Context("abpn evaluate", "a CPU", {"python": "3.11"}, "0123abcd", "2026-11-01")


def test_a_record_carries_its_context_and_names_what_it_measures() -> None:
    record = HERE.record("psnr", "abpn-seed1-int8-qat", 29, "dB", protocol="rgb-border1", dataset="set5", count=5)
    assert record.id == "psnr/abpn-seed1-int8-qat[dataset=set5,protocol=rgb-border1]"
    assert record.columns == {
        "network": "abpn", "seed": 1, "form": "int8-qat", "protocol": "rgb-border1", "dataset": "set5"
    }
    assert HERE.record("parameters", "abpn", 42539, "").id == "parameters/abpn"
    assert record.context is HERE
    assert isinstance(record.value, float)
    assert record.kind == "measured"
    assert (record.shown.number, record.shown.unit, record.shown.kind) == (29, "dB", "measured")


@pytest.mark.parametrize(
    "name",
    ["abpn", "abpn-long-int8-ptq", "abpn-seed2-fp32", "abpn-int8-ptq#3 CONV_2D", "abpn-int8-ptq/fsrl-int8-ptq",
     "node-conv3", "bicubic"],
)
def test_columns_are_the_inverse_of_the_name(name: str) -> None:
    assert HERE.record("latency", name, 1, "ms").subject == name


def test_records_come_back_from_disk_as_recorded_ones(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    records = [
        HERE.record(
            "latency", "node-add", 1.25, "ms", size="1920x1080", threads=1, count=15, spread=(1.0, 1.5),
            spread_is="95 % interval of the median", model_sha256="ab" * 32,
        ),
        HERE.record("psnr", "bicubic", 28.634, "dB", dataset="set5"),
    ]
    results.save(path, records)
    assert results.load(path, "measured") == records
    recorded = results.load(path)
    assert {record.kind for record in recorded} == {"recorded"}
    assert [record.id for record in recorded] == [record.id for record in records]
    assert (recorded[0].spread, recorded[1].spread) == ((1.0, 1.5), None)
    assert os.listdir(tmp_path) == ["records.json"]
    # Plain JSON, for any reader: a context stands once. Which kind a value is depends on who reads it.
    content = json.loads(path.read_text())
    assert len(content["contexts"]) == 1
    assert content["records"][0]["value"] == 1.25
    assert "kind" not in content["records"][0]


CONTEXT = {"command": "c", "device": "d", "versions": {}, "commit": "", "date": "2026-11-01"}
ROW = {"quantity": "latency", "network": "abpn", "form": "fp32", "value": 29.0, "unit": "ms", "context": 0}


def content(*, row: object = None, context: object = None) -> str:
    return json.dumps({"contexts": [CONTEXT if context is None else context], "records": [ROW if row is None else row]})


@pytest.mark.parametrize(
    "text",
    [
        "", "not JSON", "{}x", "3", '["text"]', "[]", "{}", '{"contexts": [], "records": 3}', "[" * 100_000,
        content(row="text"), content(row={}), content(context=7), content(context={}),
        content(context={**CONTEXT, "device": None}), content(context={**CONTEXT, "surprise": "x"}),
        content(context={**CONTEXT, "versions": {"python": 3}}), content(context={**CONTEXT, "versions": []}),
        content(row={key: value for key, value in ROW.items() if key != "value"}),
        content(row={**ROW, "quantity": 3}), content(row={**ROW, "model_sha256": None}),
        *(content(row={**ROW, "context": bad}) for bad in (1, -1, "0", True, None)),
        *(content(row={**ROW, "value": bad}) for bad in
          ("high", None, True, 0, -5, 1e-320, float("nan"), float("inf"), 10**400, [1])),
        *(content(row={**ROW, "count": bad}) for bad in ("many", 0, -1, 1.5, True, None)),
        *(content(row={**ROW, "spread": bad}) for bad in
          (3, [1], [1, 2, 3], [2, 1], [None, 1], [float("nan"), 1], "ab", {"low": 1, "high": 2})),
        *(content(row={**ROW, "size": bad}) for bad in (1.5, None, ["x"], {}, True)),
        *(content(row={**ROW, "seed": bad}) for bad in ("one", True)),
    ],
)
def test_a_malformed_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"bad\.json is not a file of records") as caught:
        results.load(path)
    assert "\n" not in str(caught.value)


def test_a_good_row_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text(content(row={**ROW, "spread": [28, 30], "surprise": "a column like any"}))
    (record,) = results.load(tmp_path / "good.json")
    assert (record.subject, record.value, record.spread) == ("abpn-fp32", 29.0, (28.0, 30.0))


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json"):
        results.load(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"binary\.json"):
        results.load(tmp_path / "binary.json")


def _psnr(value: float, kind: str = "measured", **columns: Any) -> Record:
    where = {"dataset": "set5", "protocol": "rgb-border1", **columns}
    return replace(HERE.record("psnr", "abpn-fp32", value, "dB", **where), kind=kind)


def test_what_was_just_measured_comes_before_what_was_recorded() -> None:
    recorded, measured, other = _psnr(29, "recorded"), _psnr(30), _psnr(31, dataset="set14")
    records = [other, recorded, measured]
    assert results.find("psnr", records, network="abpn", dataset="set5") is measured
    assert results.find("psnr", [other, recorded], network="abpn", dataset="set5") is recorded
    assert results.find("psnr", iter(records), network="abpn", dataset="set14") is other
    assert results.select("psnr", records) == [other, measured]


def test_conditions_that_are_not_named_are_the_usual_ones() -> None:
    whole, image, luma = _psnr(29), _psnr(25, image="baby"), _psnr(31, protocol="y-border3")
    records = [whole, image, luma]
    assert results.select("psnr", records) == [whole]
    assert results.select("psnr", records, image="baby") == [image]
    assert results.select("psnr", records, protocol="y-border3") == [luma]
    assert results.select("psnr", records, image=results.ANY, protocol=results.ANY) == records
    assert results.select("psnr", records, dataset=["set5", "set14"], seed=0) == [whole]


def test_a_frame_has_a_row_a_record_and_a_column_a_column() -> None:
    frame = results.frame("psnr", [_psnr(29), _psnr(31, dataset="set14", seed=1)])
    assert list(frame.dataset) == ["set5", "set14"]
    assert list(frame.seed) == [0, 1]
    assert [value.number for value in frame.value] == [29, 31]
    assert (frame.value[1] - frame.value[0]).number == 2
    empty = results.frame("psnr", [], network="edsr")
    assert list(empty.columns)[:2] == ["network", "value"]
    assert not len(empty)


@pytest.mark.parametrize(
    ("quantity", "where"),
    [("ssim", {}), ("psnr", {"network": "fsrcnn"}), ("psnr", {"dataset": "set14"}), ("psnr", {"image": "baby"})],
)
def test_find_names_what_is_not_there(quantity: str, where: dict[str, str]) -> None:
    with pytest.raises(DataError, match=f"no record of {quantity}.*{''.join(where.values())}"):
        results.find(quantity, [_psnr(30)], **where)


def test_shipped_records_are_whole() -> None:
    for record in results.recorded():
        assert record.kind == "recorded"
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
