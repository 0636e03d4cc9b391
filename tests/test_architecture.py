"""The house rules: who may import whom, and that importing costs nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import abpn_lib

PACKAGE = Path(abpn_lib.__file__).parent

# From the ground up: a module imports only from floors below its own.
FLOORS = (
    ("files",),
    ("degradation", "metrics", "models", "paper", "results", "statistics"),
    ("datasets",),
    ("graphs", "networks", "optimizers", "runtime"),
    ("training",),
    ("quantization", "throughput"),
    ("crops", "evaluation", "latency"),
    ("android", "arm64"),
    ("browser", "claims", "diagrams", "figures"),
    ("book", "site"),
    ("cli",),
)
FLOOR = {module: number for number, modules in enumerate(FLOORS) for module in modules}

# Only these need TensorFlow; `latency` imports them inside the function that builds meta-nodes.
TENSORFLOW_ROOMS = ("networks", "optimizers", "training", "quantization", "throughput")

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
)


def imports_of(source: str) -> set[str]:
    """The modules of abpn_lib that a source imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("abpn_lib.")}
        elif isinstance(node, ast.ImportFrom) and node.level:
            pytest.fail(f"line {node.lineno}: imports are absolute here")
        elif isinstance(node, ast.ImportFrom) and node.module == "abpn_lib":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("abpn_lib."):
            found.add(node.module.split(".")[1])
    return found


def source_of(module: str) -> str:
    path = PACKAGE / f"{module}.py"
    return (path if path.is_file() else PACKAGE / module / "__init__.py").read_text(encoding="utf-8")


def test_the_reader_of_imports_sees_every_form() -> None:
    source = """
from abpn_lib import cli, files
from abpn_lib.claims.ledger import CLAIMS
import abpn_lib.book.page as b
import numpy
def later():
    from abpn_lib.timing import latency
"""
    assert imports_of(source) == {"cli", "files", "claims", "book", "latency"}


def test_every_module_has_its_floor() -> None:
    assert set(MODULES) <= set(FLOOR)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module: str) -> None:
    above = {other for other in imports_of(source_of(module)) if FLOOR[other] >= FLOOR[module]}
    assert not above, f"{module} imports {', '.join(sorted(above))}, which is no lower than itself"


def test_the_package_itself_imports_nothing() -> None:
    assert imports_of((PACKAGE / "__init__.py").read_text(encoding="utf-8")) == set()


# What others do when they are imported is not ours to judge, so they come first. Then every event of
# the interpreter's audit that is work is written down: child processes, connections, files changed.
IMPORT_ALL = """
import importlib, sys
first, ours = sys.argv[1].split(","), sys.argv[2].split(",")
for name in first:
    importlib.import_module(name)
seen, watching = [], True

def watch(event, arguments):
    if not watching:
        return
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.mkdir", "os.remove", "os.rename"):
        seen.append(f"{event} {arguments}")
    elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        seen.append(f"{event} {arguments}")

sys.addaudithook(watch)
for name in ours:
    importlib.import_module(f"abpn_lib.{name}")
watching = False
print("tensorflow" in sys.modules, "tf_keras" in sys.modules)
print(*seen, sep="\\n")
"""
LIGHT = ("ai_edge_litert.interpreter", "matplotlib.pyplot", "pooch", "scipy.sparse", "skimage.data", "skimage.metrics")
HEAVY = (*LIGHT, "tensorflow", "tf_keras", "tensorflow_model_optimization")


def import_all(first: tuple[str, ...], modules: list[str], folder: Path) -> tuple[str, str]:
    """Import modules in a fresh interpreter; return whether TensorFlow came along, and what work was done."""
    environment = {key: value for key, value in os.environ.items() if key != "ABPN_DATA"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    answer = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, ",".join(first), ",".join(modules)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )
    assert answer.returncode == 0, answer.stderr
    tensorflow, _, work = answer.stdout.partition("\n")
    return tensorflow, work.strip()


def test_the_light_rooms_do_no_work_and_need_no_tensorflow(tmp_path: Path) -> None:
    light = [module for module in MODULES if module not in TENSORFLOW_ROOMS]
    assert import_all(LIGHT, light, tmp_path) == ("False False", "")


def test_the_tensorflow_rooms_do_no_work_either(tmp_path: Path) -> None:
    assert import_all(HEAVY, list(TENSORFLOW_ROOMS), tmp_path) == ("True True", "")


def test_the_watch_sees_work(tmp_path: Path) -> None:
    (tmp_path / "abpn_lib").mkdir()
    (tmp_path / "abpn_lib" / "__init__.py").touch()
    (tmp_path / "abpn_lib" / "busy.py").write_text("open('left-behind', 'w').close()\n")
    tensorflow, work = import_all(("json",), ["busy"], tmp_path)
    assert tensorflow == "False False"
    assert "left-behind" in work
