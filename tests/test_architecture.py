"""Who may import whom, as README's table says, and that importing costs nothing."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import abpn_lib

PACKAGE = Path(abpn_lib.__file__).parent
README = PACKAGE.parent / "README.md"

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
)
# Only these need TensorFlow at import; others import it inside functions.
TENSORFLOW = ("networks", "int8", "train.soap", "train.loop", "train.runs", "train.batches")


def table() -> dict[str, int]:
    """README's table: the line of each module or package of the library, counted from below."""
    part = README.read_text().split("each line imports from itself and from the lines below it:")[1].split("\n\n")[1]
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in part.splitlines() if line.startswith("| `")]
    return {name: number for number, names in enumerate(reversed(rows)) for name in names}


def imports_of(source: str) -> set[str]:
    """The modules and packages of abpn_lib, by the first part of their names, that a source imports anywhere in it."""
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
    path = PACKAGE / f"{module.replace('.', '/')}.py"
    return (path if path.is_file() else PACKAGE / module / "__init__.py").read_text(encoding="utf-8")


def test_the_reader_of_imports_sees_every_form() -> None:
    source = """
from abpn_lib import cli, files
from abpn_lib.claims.ledger import claims
import abpn_lib.book.pages as b
import numpy
def later():
    from abpn_lib.timing import latency
"""
    assert imports_of(source) == {"cli", "files", "claims", "book", "timing"}


def test_the_table_names_every_part_of_the_library_once() -> None:
    there = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    there |= {path.parent.name for pattern in ("*/*.yaml", "*/__init__.py") for path in PACKAGE.glob(pattern)}
    assert set(table()) == there


def test_imports_follow_the_table() -> None:
    line = table()
    wrong = {
        f"{module} imports {other}" for module in MODULES for other in imports_of(source_of(module))
        if line[other] > line[module.split(".")[0]]
    }
    assert not wrong


def test_no_part_imports_another_that_imports_it() -> None:
    parts: dict[str, set[str]] = {}
    for module in MODULES:
        name = module.split(".")[0]
        parts.setdefault(name, set()).update(imports_of(source_of(module)) - {name})
    reached = {name: set(others) for name, others in parts.items()}
    for _ in parts:
        for others in reached.values():
            others.update(*(reached.get(other, set()) for other in set(others)))
    assert not {name for name, others in reached.items() if name in others}


def test_the_package_itself_imports_nothing() -> None:
    assert imports_of((PACKAGE / "__init__.py").read_text(encoding="utf-8")) == set()


def test_nothing_of_the_library_imports_tools() -> None:
    assert not [module for module in MODULES if re.search(r"^\s*(from|import) tools\b", source_of(module), re.M)]


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


LIGHT_MODULES = [module for module in MODULES if not module.startswith(TENSORFLOW)]


@pytest.mark.slow
def test_the_light_modules_do_no_work_and_need_no_tensorflow(tmp_path: Path) -> None:
    assert import_all(LIGHT, LIGHT_MODULES, tmp_path) == ("False False", "")


@pytest.mark.slow
def test_the_modules_with_tensorflow_do_no_work_either(tmp_path: Path) -> None:
    heavy = [module for module in MODULES if module.startswith(TENSORFLOW)]
    assert import_all(HEAVY, heavy, tmp_path) == ("True True", "")


def test_the_watch_sees_work(tmp_path: Path) -> None:
    (tmp_path / "abpn_lib").mkdir()
    (tmp_path / "abpn_lib" / "__init__.py").touch()
    (tmp_path / "abpn_lib" / "busy.py").write_text("open('left-behind', 'w').close()\n")
    tensorflow, work = import_all(("json",), ["busy"], tmp_path)
    assert tensorflow == "False False"
    assert "left-behind" in work
