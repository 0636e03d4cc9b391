"""What Lighthouse says of five built pages, but for what depends on the time that a machine takes.

Its whole reports, with the scores of performance, stand in ``_build/lighthouse`` afterwards.

Skipped where `make book` has not run, no Chromium is installed, or npm cannot bring Lighthouse.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tools import browser

ROOT = Path(__file__).parents[1]
SITE = ROOT / "_build" / "html"
PAGES = ("book/index", "notebooks/03-table2-residual", "notebooks/07-figure3-visual", "book/claims", "book/try")
CATEGORIES = ("accessibility", "best-practices", "seo")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SITE.is_dir(), reason="the site is not built: run `make book`")]


@pytest.fixture(scope="session")
def lighthouse(chromium: Any) -> Path:
    """Lighthouse, as its lock file pins it; kept beside the build."""
    folder = ROOT / "_build" / "lighthouse"
    program = folder / "node_modules" / "lighthouse" / "cli" / "index.js"
    if not program.is_file():
        shutil.copytree(ROOT / "tests" / "lighthouse", folder, dirs_exist_ok=True)
        # Not `npm ci`: it misses a package in the lock that npm itself wrote.
        command = [*browser.node("npm"), "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund"]
        if subprocess.run(command, cwd=folder, capture_output=True).returncode:
            pytest.skip("npm cannot bring Lighthouse")
    return program


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_sound_for_everyone(name: str, lighthouse: Path, address: str) -> None:
    report = ROOT / "_build" / "lighthouse" / f"{name.replace('/', '-')}.json"
    command = [
        *browser.node("node"), str(lighthouse), f"{address}{name}.html", "--quiet", "--output=json",
        f"--output-path={report}", f"--only-categories=performance,{','.join(CATEGORIES)}",
        "--max-wait-for-load=120000", "--chrome-flags=--headless --no-sandbox --disable-gpu",
    ]
    environment = {**os.environ, "CHROME_PATH": shutil.which("chromium") or shutil.which("google-chrome") or ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    failed = {id: audit["title"] for id, audit in found["audits"].items() if audit["score"] == 0}
    assert all(found["categories"][category]["score"] >= 0.95 for category in CATEGORIES), failed
    # What a page's speed hangs on, without a clock: words that stay where they are, and no font to wait for.
    assert found["audits"]["cumulative-layout-shift"]["numericValue"] < 0.05
    assert "Font" not in {one["resourceType"] for one in found["audits"]["network-requests"]["details"]["items"]}
