"""What several test files share."""

from __future__ import annotations

import functools
import gzip
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
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


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Flat blocks with noise, (height, width, 3) uint8: edges, and values over the whole range."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3))
    image = np.repeat(np.repeat(blocks, 4, axis=0), 4, axis=1)[:height, :width]
    return np.clip(image + rng.integers(-20, 21, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def started() -> Callable[..., Any]:
    """started("abpn", channels=4, pairs=1): a network near the identity. One for all tests: they leave it as it is."""
    from abpn_lib import networks

    @functools.cache
    def start(name: str, **build: int) -> Any:
        model = networks.build(name, **build)
        networks.start_as_identity(model, 0.3)
        return model

    return start


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, started: Callable[..., Any]) -> Callable[..., Path]:
    """exported("abpn", "int8"): the path of a .tflite of `started`'s network, converted once for all tests.

    `size` is (height, width) of the LR image (any by default), `dtype` that of an INT8 file's images.
    """
    pytest.importorskip("tensorflow_model_optimization", reason="INT8 export needs abpn-lib[quantize]")
    from abpn_lib import int8

    folder = tmp_path_factory.mktemp("exported")

    @functools.cache
    def export(
        name: str, precision: str = "int8", *, size: tuple[int, int] = (0, 0), dtype: str = "uint8", **build: int
    ) -> Path:
        path = folder / f"{name}-{precision}-{size[0]}x{size[1]}-{dtype}{''.join(map(str, build.values()))}.tflite"
        model, sides = started(name, **build), {"height": size[0] or None, "width": size[1] or None}
        if precision == "int8":
            int8.export_int8(model, int8.calibrate(model, [picture(40, 40)[..., : model.input_shape[-1]]]), path,
                             dtype=dtype, **sides)
        else:
            int8.export_float(model, path, **sides)
        return path

    return export


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


class _Silent(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        """Texts go compressed, as GitHub Pages sends them."""
        path = Path(self.translate_path(self.path))
        if path.suffix not in (".html", ".css", ".js", ".json", ".svg") or not path.is_file():
            return super().do_GET()
        body = gzip.compress(path.read_bytes(), 6)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The built site below a sub-path, as GitHub Pages serves it."""
    handler = functools.partial(_Silent, directory=Path(__file__).parents[1] / "_build")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/html/"
        server.shutdown()
