"""The site's Colab copies run on Colab's stack: Python 3.13 with its TensorFlow and NumPy, the wheel from the site.

`make colab` makes that environment, names its interpreter in ABPN_COLAB_PYTHON and runs this file
after `make book`; without it these tests are skipped.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

SITE = Path(__file__).parents[1] / "_build" / "html"
PYTHON = os.environ.get("ABPN_COLAB_PYTHON", "")
PINS = {"tensorflow": "2.20.0", "tf_keras": "2.20.1", "numpy": "2.1.3", "scikit-image": "0.25.2"}

pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="ABPN_COLAB_PYTHON is not set: run `make colab`"),
    pytest.mark.skipif(not (SITE / "colab").is_dir(), reason="the site is not built: run `make book`"),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def versions() -> dict[str, str]:
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {list(PINS)}}}))"
    return json.loads(subprocess.run([PYTHON, "-c", code], check=True, capture_output=True, text=True).stdout)


def test_a_copy_runs_top_to_bottom_and_leaves_the_stack_alone(address: str, tmp_path: Path) -> None:
    assert versions() == PINS
    # The library must come from the site's wheel, as in Colab, not from this checkout or an earlier run.
    subprocess.run([PYTHON, "-m", "pip", "uninstall", "--quiet", "--yes", "abpn-lib"], check=True)
    # A kernel of that interpreter; `%pip` then installs into it.
    kernels = tmp_path / "share" / "jupyter" / "kernels" / "colab"
    kernels.mkdir(parents=True)
    argv = [PYTHON, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernels / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Colab", "language": "python"}))
    done = subprocess.run(
        [sys.executable, "-m", "papermill", SITE / "colab" / "01-network.ipynb", tmp_path / "out.ipynb", "--kernel",
         "colab", "--cwd", tmp_path, "--no-progress-bar", "--execution-timeout", "600"],
        capture_output=True, text=True,
        env={**os.environ, "ABPN_SITE": address, "JUPYTER_PATH": str(tmp_path / "share" / "jupyter"),
             "ABPN_DATA": str(tmp_path / "none")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    where = subprocess.run([PYTHON, "-c", "import abpn_lib; print(abpn_lib.__file__)"], check=True, capture_output=True,
                           text=True, cwd=tmp_path).stdout
    assert "site-packages" in where
    assert versions() == PINS


def test_every_copy_names_the_wheel_that_the_site_carries() -> None:
    wheel = next((SITE / "wheel").glob("*.whl"))
    for copy in (SITE / "colab").glob("*.ipynb"):
        assert wheel.name in copy.read_text(), copy.name
