"""What several test files share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# TensorFlow's start-up notices bury a failing test's own output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture
def data_folder() -> Path:
    """The folder of benchmark images that ABPN_DATA names; tests that need it are skipped without it."""
    folder = os.environ.get("ABPN_DATA")
    if not folder:
        pytest.skip("needs the benchmark images: set ABPN_DATA to their folder")
    return Path(folder)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A Chromium that Playwright drives: one for all files, since Playwright starts but once in a process."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    quiet = [
        "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync",
        # WebGL in software: with it a page reads colours under transparent places as the file has them.
        "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    ]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=quiet)
        yield started
        started.close()
