"""The steps to the site, run for real on a book of one page and one notebook."""

from __future__ import annotations

import base64
import csv
import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from PIL import Image

from abpn_lib import results
from tools import site

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "abpn_lib"
PUBLIC = site.Address("https://reader.github.io/abpn", "https://github.com/reader/abpn")

KEEPS = """
from abpn_lib import results
from abpn_lib import book
page = book.page("any-name")
page.keep([page.context.record("psnr", "abpn", 30.0 + gain, "dB")])
page.verdicts("S8")
"""
SHOWS = """
import numpy as np
from abpn_lib import book, results
book.table([("abpn", results.recorded()[0].shown)], ["model", "value"], caption="One value")
"""
DRAWS = """
import numpy as np
from abpn_lib import book
book.image_grid([("a black square", np.zeros((4, 4, 3), np.uint8))], alt="A test")
"""


def _notebook(path: Path, *code: str, parameters: str = "gain = 0.5") -> Path:
    cells = [
        nbformat.v4.new_markdown_cell(
            "# A page\n\nIt cites {cite}`a`, leads [home](../book/index.md), and shows [a table](#code-1)."
        ),
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *(nbformat.v4.new_code_cell(source, id=f"code-{number}") for number, source in enumerate(code)),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


# What a notebook depends on.


def test_dependencies_are_transitive_and_leave_the_rest_out(tmp_path: Path) -> None:
    notebook = _notebook(tmp_path / "n.ipynb", "%matplotlib inline\nfrom abpn_lib import metrics", "!ls")
    assert {path.name for path in site.dependencies(notebook, LIBRARY)} == {"__init__.py", "metrics.py"}
    through = site.dependencies(_notebook(tmp_path / "m.ipynb", "import abpn_lib.measure as e"), LIBRARY)
    assert {LIBRARY / "measure.py", LIBRARY / "metrics.py", LIBRARY / "results.py"} <= set(through)
    assert LIBRARY / "cli.py" not in through


def test_an_import_inside_a_function_counts(tmp_path: Path) -> None:
    notebook = _notebook(tmp_path / "n.ipynb", "def f():\n    from abpn_lib.metrics import psnr")
    found = site.dependencies(notebook, LIBRARY)
    assert LIBRARY / "metrics.py" in found


def test_packages_are_followed_module_by_module(tmp_path: Path) -> None:
    found = site.dependencies(_notebook(tmp_path / "n.ipynb", "from abpn_lib.tflite import graph"), LIBRARY)
    assert {LIBRARY / "tflite" / "graph.py", LIBRARY / "tflite" / "__init__.py", LIBRARY / "files.py"} <= set(found)
    assert LIBRARY / "tflite" / "images.py" not in found


def test_data_comes_with_the_module_that_reads_it(tmp_path: Path) -> None:
    found = site.dependencies(_notebook(tmp_path / "n.ipynb", "from abpn_lib import datasets"), LIBRARY)
    assert LIBRARY / "registry.csv" in found


# Running notebooks.


def test_a_run_gives_the_notebook_and_its_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = _notebook(tmp_path / "notebooks" / "page.ipynb", KEEPS, DRAWS)
    executed, records = tmp_path / "out" / "page.ipynb", tmp_path / "records" / "page.json"
    site.execute(notebook, executed, records, parameters={"gain": "0.25"})
    assert [record.value for record in results.load(records)] == [30.25]
    text = executed.read_text()
    assert str(tmp_path) not in text, "papermill's local paths are gone"
    tags = [cell.metadata.get("tags", []) for cell in nbformat.read(executed, 4).cells]
    assert ["injected-parameters", "remove-cell"] in tags
    assert "black square" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notebooks", "out", "records"]


def test_a_failing_cell_leaves_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = _notebook(tmp_path / "page.ipynb", KEEPS, "1 / 0")
    with pytest.raises(site.BuildError, match="ZeroDivisionError"):
        site.execute(notebook, tmp_path / "out.ipynb", tmp_path / "out.json")
    assert not (tmp_path / "out.ipynb").exists()
    assert not (tmp_path / "out.json").exists()
    assert "ZeroDivisionError" in (tmp_path / "_build" / "failed" / "page.ipynb").read_text()


def test_a_cell_that_takes_too_long_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = _notebook(tmp_path / "page.ipynb", "import time\ntime.sleep(600)")
    with pytest.raises(site.BuildError, match="imeout"):
        site.execute(notebook, tmp_path / "out.ipynb", tmp_path / "out.json", timeout=2)


def test_an_unknown_parameter_is_refused(tmp_path: Path) -> None:
    notebook = _notebook(tmp_path / "n.ipynb")
    with pytest.raises(site.BuildError, match="no parameter 'gian'; there are gain"):
        site.execute(notebook, tmp_path / "o.ipynb", tmp_path / "o.json", parameters={"gian": "1"})


def test_a_step_by_hand_fails_in_plain_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = ["--page", str(tmp_path / "p.md"), "--summary", str(tmp_path / "s.md")]
    assert site.main(["ledger", str(tmp_path / "none.json"), *pages]) == 2
    assert "none.json" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# The address.


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ABPN_SITE_URL", "reader.github.io"), ("ABPN_REPOSITORY_URL", "https://example.org/a/b"), ("ABPN_SITE_URL", 'https://a"b')],
)
def test_a_wrong_address_is_refused(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(site.BuildError, match=variable):
        site.Address.from_environment()


def test_the_address_is_read_without_its_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABPN_SITE_URL", f"{PUBLIC.site}/")
    monkeypatch.setenv("ABPN_REPOSITORY_URL", f"{PUBLIC.repository}.git")
    assert site.Address.from_environment() == PUBLIC
    assert PUBLIC.colab == "https://colab.research.google.com/github/reader/abpn/blob/gh-pages/colab"
    assert dataclasses.replace(PUBLIC, site="").colab == ""


# The site.


@pytest.fixture(scope="module")
def small_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a book of three pages, one an executed notebook, with this project's own settings."""
    root = tmp_path_factory.mktemp("book")
    (root / "book").mkdir()
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    shutil.copyfile(ROOT / "_config.yml", root / "_config.yml")
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n  - file: notebooks/page\n  - file: book/claims\n"
    )
    (root / "book" / "index.md").write_text(
        "# Home\n\n"
        "[A page](../notebooks/page.ipynb), [claims](claims.md) {{ colab }}\n\n```{bibliography}\n```\n"
    )
    (root / "book" / "references.bib").write_text("@misc{a, author={Du, Z.}, title={ABPN}, year={2021}}\n")
    notebook = _notebook(root / "notebooks" / "page.ipynb", KEEPS, SHOWS, DRAWS)
    site.execute(notebook, root / "executed" / "page.ipynb", root / "records" / "page.json")
    site.write_ledger([root / "records" / "page.json"], root / "ledger" / "claims.md", root / "ledger" / "verdicts.md")
    (root / "abpn_lib-0.1.0-py3-none-any.whl").write_bytes(b"stands for the wheel")
    return root


def _build(root: Path, address: site.Address) -> Path:
    wheel = root / "abpn_lib-0.1.0-py3-none-any.whl"
    site.build(root, root / "executed", root / "records", root / "ledger", wheel, root / "html", address)
    return root / "html"


@pytest.fixture(scope="module")
def public_site(small_book: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("public")
    return _build(shutil.copytree(small_book, root / "book"), PUBLIC)


def test_a_site_without_address_has_no_button(small_book: Path) -> None:
    pages = _build(small_book, site.Address())
    page = (pages / "notebooks" / "page.html").read_text()
    assert "colab.research" not in page
    assert "github.com/reader" not in page
    assert (pages / "index.html").is_file()
    sheet, = re.findall(r"_static/site-\w+\.css", page)
    assert "--kind-measured" in (pages / sheet).read_text(), "the book's own rules"


def test_a_page_shows_the_ledgers_verdict_and_a_copy_its_own(small_book: Path, public_site: Path) -> None:
    executed = (small_book / "executed" / "page.ipynb").read_text()
    assert "Judged by this run alone" in executed
    page = (public_site / "notebooks" / "page.html").read_text()
    assert "Judged by this run alone" not in page
    assert "data-claim" in executed
    assert verdicts_on(public_site) == {"S8": {ledger_of(small_book)["S8"]}}


def verdicts_on(pages: Path) -> dict[str, set[str]]:
    """Each claim's verdicts on the pages of a built site."""
    found: dict[str, set[str]] = {}
    for path in pages.rglob("*.html"):
        for tag in BeautifulSoup(path.read_text(), "html.parser").find_all(attrs={"data-claim": True}):
            found.setdefault(str(tag["data-claim"]), set()).add(str(tag["data-verdict"]))
    return found


def ledger_of(root: Path) -> dict[str, str]:
    """Each claim's verdict in the ledger that a build wrote."""
    return {row["id"]: row["verdict"] for row in json.loads((root / "ledger" / "claims.json").read_text())}


def test_the_ledger_is_there_as_json_and_csv(public_site: Path) -> None:
    rows = list(csv.DictReader((public_site / "book" / "claims.csv").read_text().splitlines()))
    whole = json.loads((public_site / "book" / "claims.json").read_text())
    assert [(row["id"], row["verdict"]) for row in rows] == [(row["id"], row["verdict"]) for row in whole]
    assert (rows[0]["id"], rows[0]["paper"]) == ("T1.split", "9.8 ms")


def test_every_verdict_of_the_built_book_is_the_ledgers() -> None:
    build = ROOT / "_build"
    if not (build / "html" / "index.html").is_file():
        pytest.skip("the book is not built: make book")
    ledger = ledger_of(build)
    shown = verdicts_on(build / "html")
    assert shown, "no page shows a verdict"
    assert shown == {id: {ledger[id]} for id in shown}


def test_the_build_wrote_every_page_of_the_table_of_contents() -> None:
    pages = ROOT / "_build" / "html"
    if not (pages / "index.html").is_file():
        pytest.skip("the book is not built: make book")
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    named = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    assert [name for name in named if not (pages / f"{name}.html").is_file()] == []
    notebooks = {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks <= set(named), "every notebook has its page"


def test_a_page_is_light(public_site: Path) -> None:
    pages = public_site
    page = BeautifulSoup((pages / "notebooks" / "page.html").read_text(), "html.parser")
    assert not page.find_all(class_=re.compile(r"\bfa-"), name=["i", "span"]), "icons are drawn in place"
    assert page.find("svg", class_="fa-magnifying-glass").path["d"]
    assert "fontawesome" not in str(page)
    said = page.find("meta", attrs={"name": "description"})["content"]
    assert said.startswith("It cites")
    assert page.find("meta", property="og:description")["content"] == said
    card = page.find("meta", property="og:image")["content"]
    assert Image.open(pages / card.removeprefix(f"{PUBLIC.site}/")).size == (1200, 630)
    image = page.find("img", alt="A test: a black square")
    assert image["loading"] == "lazy"
    assert Image.open(pages / "notebooks" / image["src"]).convert("RGB").getpixel((3, 3)) == (0, 0, 0)


def test_below_a_table_or_figure_stands_where_it_comes_from(public_site: Path) -> None:
    pages = public_site
    page = BeautifulSoup((pages / "notebooks" / "page.html").read_text(), "html.parser")
    table, figure = page.find_all("p", class_="sources")
    shown, kept = (results.load(pages / "notebooks" / line.a["href"]) for line in (table, figure))
    assert [record.id for record in shown] == [results.recorded()[0].id], "a table's line leads to its own records"
    assert shown[0].context.command == table.code.get_text()
    assert [record.value for record in kept] == [30.5], "a figure's to all that its page measured"
    assert table.find("a", href=f"{PUBLIC.colab}/page.ipynb")


def test_what_a_notebook_shows_is_numbered_and_referred_to(public_site: Path) -> None:
    page = BeautifulSoup((public_site / "notebooks" / "page.html").read_text(), "html.parser")
    numbers = [tag.get_text() for tag in page.find_all(class_="caption-number")]
    assert numbers == ["Table 1.", "Figure 1."]
    link = page.find("a", string="Table 1")
    assert page.find(id=str(link["href"]).removeprefix("#")).find("table")


def test_a_policy_allows_the_pages_own_scripts_and_no_other(public_site: Path) -> None:
    for path in (*public_site.glob("book/*.html"), *public_site.glob("notebooks/*.html")):
        page = BeautifulSoup(path.read_text(), "html.parser")
        policy = page.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
        allowed = set(re.findall(r"'sha256-([^']+)'", policy.partition("script-src")[2]))
        inline = [tag.string or "" for tag in page.find_all("script", src=False)]
        digests = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inline}
        assert digests == allowed, path.name
        assert "unsafe-inline" not in policy.partition("script-src")[2]
        handlers = [tag.name for tag in page.find_all(True) if any(name.startswith("on") for name in tag.attrs)]
        assert not handlers, "a policy stops scripts in attributes"


def test_a_public_site_points_colab_at_its_copies(public_site: Path) -> None:
    page = BeautifulSoup((public_site / "notebooks" / "page.html").read_text(), "html.parser")
    buttons = [a["href"] for a in page.find(class_="article-header-buttons").find_all("a", href=True)
               if "colab.research" in a["href"]]
    assert buttons == [f"{PUBLIC.colab}/page.ipynb"]
    front = BeautifulSoup((public_site / "book" / "index.html").read_text(), "html.parser")
    assert front.find("a", string="Run it in Colab")["href"] == f"{PUBLIC.colab}/page.ipynb"
    assert (public_site / "colab" / "page.ipynb").is_file()
    assert page.find("a", href=PUBLIC.repository), "the repository's button"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ('<img src="../_static/custom.css">', "no alternative text"),
        ('<img alt="../_images/plot.png" src="../_static/custom.css">', "no alternative text"),
        ('<script src="https://cdn.example.org/x.js"></script>', "from elsewhere"),
        ('<a href="gone.html">x</a>', "gone.html leads nowhere"),
        ('<a href="../index.html#no-such-place">x</a>', "names no place"),
        (f'<a href="{PUBLIC.colab}/gone.ipynb">x</a>', "is dead"),
        (f"<p>{Path.cwd()}/data</p>", "local path"),
    ],
)
def test_the_check_finds_what_is_wrong(damage: str, said: str, public_site: Path, tmp_path: Path) -> None:
    pages = shutil.copytree(public_site, tmp_path / "html")
    assert site.check(pages, PUBLIC) == []
    page = pages / "notebooks" / "page.html"
    page.write_text(page.read_text().replace("</article>", f"{damage}</article>", 1))
    problems = site.check(pages, PUBLIC)
    assert len(problems) == 1
    assert problems[0].startswith("notebooks/page.html: ")
    assert said in problems[0]


def test_a_broken_reference_builds_no_site(small_book: Path, tmp_path: Path) -> None:
    root = shutil.copytree(small_book, tmp_path / "book", ignore=shutil.ignore_patterns("html"))
    with (root / "book" / "index.md").open("a") as file:
        file.write("\n[nowhere](gone.md)\n")
    with pytest.raises(site.BuildError, match=r"gone\.md"):
        _build(root, site.Address())
    assert not (root / "html").exists()


def test_a_picture_without_text_builds_no_site(small_book: Path, tmp_path: Path) -> None:
    root = shutil.copytree(small_book, tmp_path / "book", ignore=shutil.ignore_patterns("html"))
    (root / "book" / "dot.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>')
    with (root / "book" / "index.md").open("a") as file:
        file.write("\n![](dot.svg)\n")
    with pytest.raises(site.BuildError, match="no alternative text"):
        _build(root, site.Address())
    assert not (root / "html").exists()


# A build that is killed.


def _wait_for(what: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not what():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_a_killed_step_leaves_the_site_before_and_the_next_one_replaces_it(small_book: Path, tmp_path: Path) -> None:
    root = shutil.copytree(small_book, tmp_path / "book", ignore=shutil.ignore_patterns("html"))
    (root / "html").mkdir()
    (root / "html" / "index.html").write_text("the site before")
    words = {"executed": "executed", "records": "records", "ledger": "ledger", "wheel": next(root.glob("*.whl")).name}
    command = [sys.executable, "-m", "tools.site", "build", "--out", "html"]
    command += [word for name, value in words.items() for word in (f"--{name}", value)]
    step = subprocess.Popen(command, cwd=root, text=True, stderr=subprocess.PIPE, start_new_session=True,
                            env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        _wait_for(lambda: list(root.glob("staged-*/source/_config.yml")), step)
    finally:
        os.killpg(step.pid, signal.SIGKILL)
        step.communicate()
    assert (root / "html" / "index.html").read_text() == "the site before"
    pages = _build(root, site.Address())
    assert (pages / "notebooks" / "page.html").is_file()
    assert not list(root.glob("staged*")), "what the killed step left is gone"


# This project's own rule of the site, with a command that hangs when it runs for the first time.
HANGS = """
from abpn_lib import datasets
PYTHON, ABPN = "test -e hung || {{ touch hung; sleep 600; }}; :", ""
include: "{root}/workflow/rules/book.smk"
"""


def test_a_killed_build_goes_on_by_the_same_command_and_two_at_once_are_refused(tmp_path: Path) -> None:
    for name in ("abpn_lib", "tools", "book", "pyproject.toml", "_toc.yml", "_config.yml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "Snakefile").write_text(HANGS.format(root=ROOT))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    ledger = [f"ledger/{name}" for name in ("claims.md", "verdicts.md", "claims.json", "claims.csv")]
    for name in (*ledger, f"wheel/abpn_lib-{version}-py3-none-any.whl", "try/index.js", "html/index.html"):
        (tmp_path / "_build" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "_build" / name).write_text("from before")
    whole = tmp_path / "_build" / "html" / ".whole"
    command = [sys.executable, "-m", "tools.graph", "--cores", "1", "--rerun-incomplete", "--allowed-rules", "book",
               "site", "--", "book"]
    run = functools.partial(subprocess.Popen, command, cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    first = run(start_new_session=True)
    try:
        _wait_for((tmp_path / "hung").exists, first)
        second = run()
        assert (second.communicate()[1].splitlines(), second.returncode) == (
            [f"graph: process {first.pid} builds in this folder already: wait for its end"], 2
        )
        first.kill()  # its jobs live on, as they do when memory ran out
        first.wait()
        assert (tmp_path / "_build" / "html" / "index.html").read_text() == "from before"
        assert not whole.exists()
        plain = subprocess.run([sys.executable, "-m", "snakemake", *command[3:]], cwd=tmp_path, capture_output=True,
                               text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert "LockException" in plain.stderr, "the lock is still there"
        again = run()
        said = again.communicate()[1]
        assert "goes on from there" in said
        assert again.returncode == 0, said
        assert whole.is_file()
    finally:
        os.killpg(first.pid, signal.SIGKILL)


# The Colab copies.


def test_a_copy_installs_the_very_wheel_first(small_book: Path) -> None:
    wheel = small_book / "abpn_lib-0.1.0-py3-none-any.whl"
    notebook = small_book / "notebooks" / "page.ipynb"
    copy = site.colab_copy(notebook, wheel, PUBLIC.site)
    nbformat.validate(copy)
    first = next(cell for cell in copy.cells if cell.cell_type == "code")
    assert f"/wheel/{wheel.name}#sha256={site.sha256(wheel)}" in first.source
    assert PUBLIC.site in first.source
    assert copy == site.colab_copy(notebook, wheel, PUBLIC.site), "copies are reproducible"


def test_a_copy_replaces_the_cell_made_for_it() -> None:
    marked = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if "colab-install" in path.read_text()]
    assert marked, "the project's notebooks mark the cell"
    for path in marked:
        original, copy = nbformat.read(path, 4), site.colab_copy(path, ROOT / "pyproject.toml", "")
        assert len(copy.cells) == len(original.cells)
        assert "%pip install" in next(cell for cell in copy.cells if cell.cell_type == "code").source


# The graph: snakemake itself, without running a job.


def test_snakemake_plans_every_notebook_of_the_book() -> None:
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--forceall", "--cores", "2", "--nolock", "book"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0, done.stderr
    planned = done.stdout + done.stderr
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"_build/executed/notebooks/{notebook.name}" in planned
    assert "rule train" not in planned, "training runs only when asked for"
