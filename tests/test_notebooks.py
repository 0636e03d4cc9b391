"""Every notebook as it is stored: its skeleton, its parameters, its first cell, and no outputs."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SKELETON = ["What the paper says", "What we run", "Result beside the paper's", "Verdict", "What to try next"]
# Pictures whose text cannot be made from their data: each needs one that says what it shows.
DRAWN, PIXELS = {"themed"}, {"image_grid"}
# What reads records: a function that calls one belongs in the library.
READS_RECORDS = {"recorded", "load", "frame", "pivot", "select", "find", "load_all", "records"}
MOST_LINES, MOST_LINES_EACH, LONGEST_LINE = 130, 90, 110

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def parsed(path: Path) -> ast.Module:
    return ast.parse("\n\n".join(cell.source for cell in code_cells(path)))


def headings(path: Path) -> list[str]:
    lines = [line for cell in read(path).cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    return [line for line in lines if line.startswith(("# ", "## "))]


def name_of(node: ast.AST) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


def calls(path: Path, names: set[str]) -> list[ast.Call]:
    found = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
    return [call for call in found if name_of(call.func) in names]


def lines(path: Path) -> list[str]:
    return [line for cell in code_cells(path) for line in cell.source.splitlines() if line.strip()]


@each_notebook
def test_its_code_is_a_page_long(path: Path) -> None:
    found = lines(path)
    assert len(found) <= MOST_LINES
    assert [line for line in found if len(line) > LONGEST_LINE] == []


def test_all_notebooks_together_are_short() -> None:
    assert sum(len(lines(path)) for path in NOTEBOOKS) <= MOST_LINES_EACH * len(NOTEBOOKS)


@each_notebook
def test_it_is_a_valid_notebook_for_python(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


@each_notebook
def test_it_is_stored_without_outputs(path: Path) -> None:
    notebook = read(path)
    assert not {"papermill", "widgets"} & set(notebook.metadata)
    for cell in notebook.cells:
        assert not {"papermill", "execution", "ExecuteTime"} & set(cell.metadata)
        assert "injected-parameters" not in tags(cell)
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@each_notebook
def test_it_has_the_skeleton(path: Path) -> None:
    found = headings(path)
    assert found[0].startswith("# ")
    assert sum(line.startswith("# ") for line in found) == 1
    assert [line[3:].replace("\u2019", "'") for line in found[1:]] == SKELETON


@each_notebook
def test_its_first_code_cell_is_the_one_that_colab_replaces(path: Path) -> None:
    cells = code_cells(path)
    assert {"colab-install", "remove-cell"} <= set(tags(cells[0]))
    assert "import abpn_lib" in cells[0].source
    assert not any("colab-install" in tags(cell) for cell in cells[1:])


@each_notebook
def test_its_parameters_are_literals(path: Path) -> None:
    cells = code_cells(path)
    assert [i for i, cell in enumerate(cells) if "parameters" in tags(cell)] == [1]
    statements = ast.parse(cells[1].source).body
    assert statements
    for statement in statements:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)


@each_notebook
def test_each_parameter_is_used(path: Path) -> None:
    cells = code_cells(path)
    assigned = [node for node in ast.walk(ast.parse(cells[1].source)) if isinstance(node, ast.Name)]
    names = {node.id for node in assigned if isinstance(node.ctx, ast.Store)}
    later = ast.parse("\n\n".join(cell.source for cell in cells[2:]))
    used = {node.id for node in ast.walk(later) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert names <= used


@each_notebook
def test_every_picture_says_what_it_shows(path: Path) -> None:
    for call in calls(path, DRAWN | PIXELS):
        words = {keyword.arg: keyword.value for keyword in call.keywords}
        allowed = {"alt"} if name_of(call.func) in DRAWN else {"alt", "caption"}
        given = [words[key] for key in allowed if key in words]
        assert given, f"line {call.lineno}: a picture without {' or '.join(sorted(allowed))}"
        for text in given:
            assert not isinstance(text, ast.Constant) or (isinstance(text.value, str) and len(text.value) >= 20)


@each_notebook
def test_every_picture_goes_through_the_library(path: Path) -> None:
    nodes = list(ast.walk(parsed(path)))
    imported = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {(node.module or "").split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    # A figure shown past `book.themed` has no alt text and no dark version.
    assert not imported & {"matplotlib", "seaborn", "pylab"}
    assert not calls(path, {"imshow", "show", "savefig"})


@each_notebook
def test_it_is_a_page_that_keeps_what_it_measures_and_ends_in_verdicts(path: Path) -> None:
    name, = (ast.literal_eval(call.args[0]) for call in calls(path, {"page"}))
    assert name == path.stem, "records are kept under the notebook's own name"
    assert calls(path, {"keep"})
    assert calls(path, {"verdicts"})


@each_notebook
def test_none_of_its_functions_reads_records(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        assert not isinstance(node, ast.ClassDef), f"class {node.name} belongs in abpn_lib"
        if isinstance(node, ast.FunctionDef):
            reads = {name_of(inner) for inner in ast.walk(node) if isinstance(inner, (ast.Attribute, ast.Name))}
            assert not reads & READS_RECORDS, f"{node.name} reads records: it belongs in abpn_lib"


def test_no_function_is_defined_twice() -> None:
    nodes = [node for path in NOTEBOOKS for node in ast.walk(parsed(path))]
    defined = Counter(node.name for node in nodes if isinstance(node, ast.FunctionDef))
    assert [name for name, count in defined.items() if count > 1] == []
