"""The steps from notebooks to the rendered site, as the rules of ``workflow/`` call them.

Each step takes paths and writes paths; a step that fails leaves no output behind that a later one
could use. `python -m tools.site STEP --help` runs a single step by hand.
"""

from __future__ import annotations

import argparse
import ast
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml  # type: ignore[import-untyped]
from bs4 import BeautifulSoup

from abpn_lib import claims, results
from abpn_lib.files import AbpnError, sha256, write_atomically
from tools import BuildError, browser, cards, front, layout, pdf, references
from tools.lighten import lighten
from tools.sources import with_sources

__all__ = ["Address", "build", "check", "colab_copy", "dependencies", "execute", "write_ledger"]

_COLAB = "https://colab.research.google.com"
# The branch that holds the published site: Colab opens notebooks from a repository, so it finds the copies there.
_SITE_BRANCH = "gh-pages"
# Files beside the modules that a module reads: they count as inputs of what imports it.
_DATA = {
    "abpn_lib.datasets": ("registry.csv", "crops/*"), "abpn_lib.models": ("models/*",),
    "abpn_lib.paper": ("paper.yaml",), "abpn_lib.book": ("records/*.json", "book/*.mplstyle"),
    "abpn_lib.claims": ("records/*.json", "claims/*.j2"), "abpn_lib.train.recipe": ("recipes/*.yaml",),
}


@dataclass(frozen=True)
class Address:
    """Where the book will be published: the site's public base and the repository; "" where not known."""

    site: str = ""
    repository: str = ""

    @classmethod
    def from_environment(cls) -> Address:
        """The address that ABPN_SITE_URL and ABPN_REPOSITORY_URL name.

        Raises
        ------
        BuildError
            If one of them is not such an address.
        """
        site = os.environ.get("ABPN_SITE_URL", "").rstrip("/")
        repository = os.environ.get("ABPN_REPOSITORY_URL", "").rstrip("/").removesuffix(".git")
        if site and not re.fullmatch(r"https?://[^\s\"'{}]+", site):
            raise BuildError(f"ABPN_SITE_URL is {site!r}, which is not a web address")
        if repository and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", repository):
            raise BuildError(f"ABPN_REPOSITORY_URL is {repository!r}; Colab needs https://github.com/OWNER/NAME")
        return cls(site, repository)

    @property
    def colab(self) -> str:
        """Below this address Colab opens the site's notebook copies; "" unless site and repository are known."""
        if not (self.site and self.repository):
            return ""
        return f"{_COLAB}/github/{self.repository.removeprefix('https://github.com/')}/blob/{_SITE_BRANCH}/colab"


def dependencies(notebook: Path, library: Path) -> list[Path]:
    """The files of the project that a notebook or module depends on: what it imports, transitively.

    `library` is the folder of the package; modules of ``tools`` beside it count too. Imports inside functions count.
    Data files that a module reads (models, records, the registry) come with it.
    """
    found: set[str] = set()
    pending = list(_imported(_code(notebook), library.parent))
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += _imported(_module(library.parent, name).read_text(), library.parent)
            # A module runs the packages that it lies in.
            pending += [parent for parent in (name.rpartition(".")[0],) if parent]
    modules = {_module(library.parent, name) for name in found} | {library / "__init__.py"}
    data = {path for name in found for pattern in _DATA.get(name, ()) for path in library.glob(pattern)}
    return sorted(modules | {path for path in data if path.is_file()})


def execute(
    notebook: Path, executed: Path, records: Path, *, parameters: Mapping[str, str] | None = None, timeout: int = 600
) -> None:
    """Run a notebook from top to bottom; write it with its outputs, and the records it kept, or write neither.

    It runs in an empty folder, in this interpreter's own kernel. `timeout` holds for each cell, in
    seconds. On failure the notebook is left in ``_build/failed`` as far as it came.

    Raises
    ------
    BuildError
        If a parameter is not in the cell tagged ``parameters``, or a cell fails or takes too long.
    """
    _demand_parameters(notebook, parameters or {})
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "here").mkdir()
        command = [
            sys.executable, "-m", "papermill", str(notebook.resolve()), str(scratch / "out.ipynb"), "--no-progress-bar",
            "--kernel", "python3", "--execution-timeout", str(timeout), "--cwd", str(scratch / "here"),
        ]
        for key, value in (parameters or {}).items():
            command += ["-p", key, value]
        done = subprocess.run(command, env=_environment(scratch), capture_output=True, text=True)
        if done.returncode:
            kept = Path("_build/failed") / notebook.name
            kept.parent.mkdir(parents=True, exist_ok=True)
            if (scratch / "out.ipynb").is_file():
                shutil.copyfile(scratch / "out.ipynb", kept)
            raise BuildError(f"{notebook} failed; {kept} shows how far it came\n{_last_lines(done.stderr, 25)}")
        kept_records = [record for path in sorted(scratch.glob("records/*.json")) for record in results.load(path)]
        executed.parent.mkdir(parents=True, exist_ok=True)
        records.parent.mkdir(parents=True, exist_ok=True)
        results.save(records, kept_records)
        write_atomically(executed, nbformat.writes(_cleaned(scratch / "out.ipynb")).encode())


def write_ledger(record_files: Iterable[Path], page: Path, summary: Path) -> None:
    """Judge every claim by this run's records and the shipped ones, once.

    Writes the ledger's page, the opening page's summary, and beside the page ``claims.json`` and ``claims.csv``.
    """
    measured = [record for path in record_files for record in results.load(path, "measured")]
    judged = claims.ledger([*measured, *results.recorded()])
    data = claims.to_json(judged)
    written = {
        page: claims.page(judged), summary: front.page(judged, measured), page.with_name("claims.json"): data,
        page.with_name("claims.csv"): as_csv(data),
    }
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())


def as_csv(ledger: str) -> str:
    """The ledger that `claims.to_json` gave, as CSV of the same fields: values and records in short."""
    rows = json.loads(ledger)
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        said = "; ".join(f"{quote['text']} {quote['unit']}".strip() for quote in row["paper"])
        writer.writerow({**row, "paper": said, "records": "; ".join(record["id"] for record in row["records"])})
    return file.getvalue()


def build(
    root: Path, executed: Path, records: Path, ledger: Path, wheel: Path, site: Path, address: Address, *,
    gathered: Path | None = None,
) -> None:
    """Build the whole site from sources, executed notebooks, their records, the ledger and the wheel; then check it.

    `site` is replaced only when everything, the check included, has passed. `gathered` holds what the page that runs
    in the browser loads (`tools.browser.gather`).

    Raises
    ------
    BuildError
        If Sphinx warns or fails, or the check finds a problem.
    """
    site.parent.mkdir(parents=True, exist_ok=True)
    for left in site.parent.glob("staged*"):  # by a build that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="staged-", dir=site.parent) as name:
        work = Path(name)
        pages = _build_pages(root, executed, records, ledger, wheel, work, address, gathered)
        if site.exists():
            site.replace(work / "before")
        pages.replace(site)


def _build_pages(
    root: Path, executed: Path, records: Path, ledger: Path, wheel: Path, work: Path, address: Address,
    gathered: Path | None,
) -> Path:
    """Build the site in the folder `work`, and check it; return where its pages lie."""
    _stage(root, executed, records, ledger, work / "source", address)
    command = [
        str(Path(sys.executable).with_name("jupyter-book")), "build", str(work / "source"), "--path-output", str(work),
        "--builder", "html", "-n", "-W", "--keep-going", "--quiet",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    pages = work / "_build" / "html"
    if done.returncode or not (pages / "index.html").is_file():
        raise BuildError(f"jupyter-book refused the book\n{_last_lines(done.stdout + done.stderr, 60)}")
    if gathered:
        browser.install(gathered, pages / "book")
    (pages / "wheel").mkdir()
    shutil.copyfile(wheel, pages / "wheel" / wheel.name)
    (pages / "colab").mkdir()
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        copy = colab_copy(notebook, wheel, address.site)
        write_atomically(pages / "colab" / notebook.name, nbformat.writes(copy).encode())
    shutil.copytree(work / "source" / "records", pages / "records")
    for name in ("claims.json", "claims.csv"):
        shutil.copyfile(ledger / name, pages / "book" / name)
    _point_buttons_at_copies(pages, address)
    references.write_previews(pages)
    lighten(pages, address.site)
    print_book(root, pages, pages / "abpn.pdf", address)
    problems = check(pages, address)
    if problems:
        raise BuildError(f"the built site has {len(problems)} problems\n" + "\n".join(problems))
    return pages


def print_book(root: Path, pages: Path, target: Path, address: Address) -> None:
    """Write the built book as one PDF, and each page's card; see `tools.pdf` and `tools.cards`."""
    names, said = pdf.chapters(root / "_toc.yml"), yaml.safe_load((root / "_config.yml").read_text())
    pdf.write(pages, names, target, title=said["title"], author=said["author"], site=address.site)
    cards.write(pages, names, said["title"])


def colab_copy(notebook: Path, wheel: Path, site: str) -> nbformat.NotebookNode:
    """The notebook with a cell in front of all other code that installs the site's own wheel, pinned by its hash.

    The wheel is taken from `site`, or from the address that the environment variable ABPN_SITE names.
    """
    copy = nbformat.read(notebook, as_version=4)
    source = (
        "# Installs the library at the very commit that this page was built from.\n"
        "import os\n"
        f'SITE = os.environ.get("ABPN_SITE", "{site}")\n'
        'assert SITE, "put the address that serves this book between the last quotes of the line above"\n'
        f'%pip install --quiet "abpn-lib[quantize,npu] @ {{SITE}}/wheel/{wheel.name}#sha256={sha256(wheel)}"'
    )
    places = [number for number, cell in enumerate(copy.cells) if "colab-install" in cell.metadata.get("tags", ())]
    if places:
        copy.cells[places[0]].update(source=source)
    else:
        first_code = next((number for number, cell in enumerate(copy.cells) if cell.cell_type == "code"), 0)
        # A fixed id: the same notebook and wheel give the same copy.
        copy.cells.insert(first_code, nbformat.v4.new_code_cell(source, id="colab-install"))
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    return copy


def check(pages: Path, address: Address) -> list[str]:
    """What is wrong with a built site, one line each.

    Images without alternative text, links and launch buttons that lead nowhere, scripts from elsewhere, paths of this
    machine.
    """
    parsed = {
        path: BeautifulSoup(path.read_text(), "html.parser")
        for path in sorted(pages.rglob("*.html")) if "_static" not in path.relative_to(pages).parts
    }
    anchors = {
        path.resolve(): {str(tag[key]) for tag in page.find_all(True) for key in ("id", "name") if key in tag.attrs}
        for path, page in parsed.items()
    }
    problems = []
    for path, page in parsed.items():
        found = [
            *_image_problems(page),
            *_link_problems(path.resolve(), page, pages.resolve(), anchors),
            *_button_problems(page, pages, address),
            *(f"loads {tag['src']} from elsewhere" for tag in page.find_all("script", src=re.compile("^(https?:)?//"))),
        ]
        if str(Path.cwd()) in path.read_text():
            found.append("shows a local path of the machine that built it")
        problems += [f"{path.relative_to(pages)}: {problem}" for problem in found]
    return problems


def _image_problems(page: BeautifulSoup) -> list[str]:
    problems = []
    for image in page.find_all("img"):
        alt = str(image.get("alt", "")).strip()
        # Sphinx and Jupyter fall back to the file's name, which tells nobody anything.
        if not alt or re.search(r"\.(png|jpe?g|svg|gif|webp)$", alt, re.IGNORECASE):
            problems.append(f"the image {str(image.get('src'))[:60]} has no alternative text")
    return problems


def _link_problems(path: Path, page: BeautifulSoup, pages: Path, anchors: Mapping[Path, set[str]]) -> list[str]:
    problems = []
    for tag in page.find_all(["a", "img", "link", "script", "source"]):
        address = str(tag.get("href") or tag.get("src") or tag.get("srcset") or "")
        parts = urllib.parse.urlsplit(address)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
        if target.is_dir():
            target = target / "index.html"
        fragment = urllib.parse.unquote(parts.fragment)
        if not (target.is_file() and target.is_relative_to(pages)):
            problems.append(f"{address} leads nowhere")
        elif fragment and target in anchors and fragment not in anchors[target]:
            problems.append(f"{address} names no place on that page")
    return problems


def _button_problems(page: BeautifulSoup, pages: Path, address: Address) -> list[str]:
    problems = []
    for tag in page.find_all("a", href=True):
        target = str(tag["href"])
        if not target.startswith((_COLAB, "https://mybinder.org")):
            continue
        name = target.removeprefix(f"{address.colab}/")
        if not address.colab or name == target or not (pages / "colab" / name).is_file():
            problems.append(f"the launch button {target} is dead")
    return problems


def _stage(root: Path, executed: Path, records: Path, ledger: Path, target: Path, address: Address) -> None:
    shutil.copytree(root / "book", target / "book", ignore=shutil.ignore_patterns("_generated", "try"))
    glossary = target / "book" / "glossary.md"
    terms = references.terms(glossary.read_text()) if glossary.is_file() else {}
    shutil.copyfile(root / "_toc.yml", target / "_toc.yml")
    (target / "notebooks").mkdir()
    judged = _judged(ledger / "claims.json")
    cells = {cell.id for path in root.glob("notebooks/*.ipynb") for cell in nbformat.read(path, as_version=4).cells}
    for page in set((target / "book").glob("*.md")) - {glossary}:
        page.write_text(references.Linker(judged, terms, cells).linked(page.read_text()))
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        staged = layout.page_of(nbformat.read(executed / notebook.name, as_version=4), judged)
        measured = results.load(records / f"{notebook.stem}.json", "measured")
        colab = f"{address.colab or '../colab'}/{notebook.name}"
        staged = with_sources(staged, notebook.stem, measured, target, colab)
        linker = references.Linker(judged, terms, cells)
        for cell in (cell for cell in staged.cells if cell.cell_type == "markdown"):
            cell.source = linker.linked(cell.source)
        nbformat.write(staged, target / "notebooks" / notebook.name)
    (target / "book" / "_generated").mkdir()
    shutil.copyfile(ledger / "claims.md", target / "book" / "claims.md")
    shutil.copyfile(ledger / "verdicts.md", target / "book" / "_generated" / "verdicts.md")
    config = yaml.safe_load((root / "_config.yml").read_text())
    if address.repository:
        config["repository"] = {"url": address.repository, "branch": _SITE_BRANCH}
        config.setdefault("html", {})["use_repository_button"] = True
    if address.colab:
        config["launch_buttons"] = {"colab_url": _COLAB}
    first = sorted((root / "notebooks").glob("*.ipynb"))[0].name
    colab = f"[Run it in Colab]({address.colab}/{first})" if address.colab else ""
    config["parse"]["myst_substitutions"] = {"colab": colab}
    if address.site:
        config.setdefault("html", {})["baseurl"] = address.site
    (target / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False))


def _judged(path: Path) -> dict[str, tuple[claims.Claim, claims.Judgement]]:
    """Every claim with its judgement, from the file that `claims.to_json` wrote."""
    judged = {}
    for row in json.loads(path.read_text()):
        found = []
        for given in row["records"]:
            del given["id"]
            spread = tuple(given["spread"]) if given["spread"] else None
            found.append(results.Record(**{**given, "spread": spread, "context": results.Context(**given["context"])}))
        judgement = claims.Judgement(row["verdict"], row["measured"], tuple(found), row["why"])
        judged[row["id"]] = (claims.claim(row["id"]), judgement)
    return judged


def _point_buttons_at_copies(pages: Path, address: Address) -> None:
    # The theme can only point Colab at the page's own path; the copies that install the wheel lie under colab/.
    if address.colab:
        for path in pages.glob("notebooks/*.html"):
            text = path.read_text().replace(f"/blob/{_SITE_BRANCH}/notebooks/", f"/blob/{_SITE_BRANCH}/colab/")
            write_atomically(path, text.encode())




def _code(path: Path) -> str:
    if path.suffix != ".ipynb":
        return path.read_text()
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    # IPython's own lines are not Python.
    return re.sub(r"^\s*[%!].*$", "", "\n".join(cells), flags=re.MULTILINE)


def _imported(source: str, root: Path) -> set[str]:
    """The project's own modules that Python source imports, by their dotted names."""
    dotted = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            dotted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            dotted |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    ours = {name for name in dotted if name.split(".")[0] in ("abpn_lib", "tools")}
    return {name for name in ours if _module(root, name).is_file()}


def _module(root: Path, name: str) -> Path:
    path = root / name.replace(".", "/")
    return path / "__init__.py" if (path / "__init__.py").is_file() else path.with_suffix(".py")


def _demand_parameters(notebook: Path, parameters: Mapping[str, str]) -> None:
    cells = nbformat.read(notebook, as_version=4).cells
    tagged = "\n".join(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", ()))
    names = {target.id for node in ast.walk(ast.parse(tagged)) if isinstance(node, ast.Assign)
             for target in node.targets if isinstance(target, ast.Name)}
    unknown = sorted(set(parameters) - names)
    if unknown:
        raise BuildError(f"{notebook} has no parameter {unknown[0]!r}; there are {', '.join(sorted(names)) or 'none'}")


def _environment(scratch: Path) -> dict[str, str]:
    changed = {
        # This interpreter's kernel, whatever kernels the user has installed elsewhere.
        "JUPYTER_PATH": str(Path(sys.prefix) / "share" / "jupyter"),
        "IPYTHONDIR": str(scratch / "ipython"),
        "ABPN_RECORDS_OUT": str(scratch / "records"),
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
    }
    if os.environ.get("ABPN_DATA"):
        changed["ABPN_DATA"] = str(Path(os.environ["ABPN_DATA"]).resolve())
    return {**os.environ, **changed}


def _cleaned(path: Path) -> nbformat.NotebookNode:
    """An executed notebook without papermill's notes (times, local paths); code is folded, injected parameters go."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        tags = cell.metadata.setdefault("tags", [])
        if "injected-parameters" in tags:
            tags.append("remove-cell")
        elif cell.cell_type == "code":
            # Readers come for the results; the code is one click away.
            tags.append("hide-input")
    return notebook


def _last_lines(text: str, count: int) -> str:
    return "\n".join(text.strip().splitlines()[-count:])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.site", description="One step of the way to the site.")
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("execute", help="run a notebook")
    step.add_argument("notebook", type=Path)
    step.add_argument("--out", type=Path, required=True, help="the notebook with its outputs")
    step.add_argument("--records", type=Path, required=True, help="the records it keeps")
    step.add_argument("--timeout", type=int, default=600, help="seconds for each cell (600)")
    step.add_argument("-p", dest="parameters", nargs=2, metavar=("NAME", "VALUE"), action="append", default=[])
    step = steps.add_parser("ledger", help="write the ledger's page and the opening page's summary")
    step.add_argument("records", type=Path, nargs="*", help="records of this run")
    step.add_argument("--page", type=Path, required=True)
    step.add_argument("--summary", type=Path, required=True)
    step = steps.add_parser("build", help="build and check the site; reads ABPN_SITE_URL and ABPN_REPOSITORY_URL")
    step.add_argument("--executed", type=Path, required=True, help="folder of executed notebooks")
    step.add_argument("--records", type=Path, required=True, help="folder of the records that they kept")
    step.add_argument("--ledger", type=Path, required=True, help="folder of what the step `ledger` wrote")
    step.add_argument("--wheel", type=Path, required=True)
    step.add_argument("--browser", type=Path, default=None, help="folder of what the page in the browser loads")
    step.add_argument("--out", type=Path, required=True)
    step = steps.add_parser("pdf", help="print a built site as one PDF, as the step `build` does")
    step.add_argument("--pages", type=Path, required=True, help="folder of the built site")
    step.add_argument("--out", type=Path, required=True)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step; a failure is said on standard error and gives status 2."""
    given = _parser().parse_args(arguments)
    try:
        if given.step == "execute":
            execute(given.notebook, given.out, given.records, parameters=dict(given.parameters), timeout=given.timeout)
        elif given.step == "ledger":
            write_ledger(given.records, given.page, given.summary)
        elif given.step == "pdf":
            print_book(Path(), given.pages, given.out, Address.from_environment())
        else:
            address = Address.from_environment()
            build(Path(), given.executed, given.records, given.ledger, given.wheel, given.out, address,
                  gathered=given.browser)
    except (AbpnError, OSError) as error:
        print(f"{given.step}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
