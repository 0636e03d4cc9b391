"""ONNX Runtime and OpenVINO beside LiteRT, for real on a small image; the records that ship are held to their claim."""

from __future__ import annotations

from pathlib import Path

import pytest

from abpn_lib import results
from tools import runtimes


@pytest.mark.slow
def test_a_model_is_run_by_all_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="needs abpn-lib[onnx]")
    pytest.importorskip("openvino", reason="openvino is not there")
    out = tmp_path / "runtimes.json"
    words = ["--model", "abpn-long-int8-ptq-folded", "--size", "64x48", "--rounds", "6", "--out", str(out)]
    assert runtimes.main(words) == 0, capsys.readouterr().err
    found = {(record.quantity, record.columns["runtime"]): record for record in results.load(out)}
    assert len(found) == 6
    for runtime in ("ONNX Runtime", "OpenVINO"):
        ratio = found["runtime-ratio", runtime]
        assert ratio.spread is not None
        assert 0 < ratio.spread[0] <= ratio.value <= ratio.spread[1]
        assert {"onnxruntime", "openvino"} <= set(ratio.context.versions)
        assert found["runtime-difference", runtime].value <= 2
        assert found["runtime-equal", runtime].value > 90
    assert runtimes.main(["--rounds", "0"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_shipped_records_keep_what_the_export_promises() -> None:
    apart = results.select("runtime-difference", results.recorded())
    assert {record.columns["runtime"] for record in apart} == {"ONNX Runtime", "OpenVINO"}
    assert all(record.value <= 2 for record in apart)
    assert len(results.select("runtime-ratio", results.recorded())) == len(apart)
