"""What several test files share."""

from __future__ import annotations

import os
from pathlib import Path

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
