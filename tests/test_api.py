"""The guide to the library: its snippets run, one after the other, as a reader would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = (Path(__file__).parents[1] / "book" / "api.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_guides_snippets_run(tmp_path: Path) -> None:
    assert len(SNIPPETS) == 5
    code = "\n".join(SNIPPETS)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d\d\.\d\d dB$", done.stdout, re.MULTILINE), "an image's PSNR"
    assert "● " in done.stdout, "a record from a file is a recorded one"
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"models/fsrl-fp32.tflite", "models/fsrl-int8-ptq.tflite", "mine.json"} <= made


def test_the_reference_names_every_part_that_the_guide_uses() -> None:
    used = {
        f"abpn_lib.{name}" for line in re.findall(r"^from abpn_lib import (.*)$", "\n".join(SNIPPETS), re.MULTILINE)
        for name in line.split(", ")
    }
    assert used <= set(re.findall(r"automodule:: (\S+)", GUIDE))
