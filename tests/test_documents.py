"""README, citation, environment and workflows say what the code and the lock say."""

from __future__ import annotations

import base64
import http.server
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from abpn_lib import cli, datasets, metrics, models
from tools import site

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CI = ROOT / ".github" / "workflows" / "ci.yml"
PAGES = (ROOT / "README.md", *sorted((ROOT / "book").glob("*.md")))


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked(lock: str = "requirements.lock") -> dict[str, list[str]]:
    """Package -> its versions in a lock (several where they differ by Python version)."""
    versions: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", (ROOT / lock).read_text(), re.M):
        versions.setdefault(canonicalize_name(name), []).append(version)
    return versions


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read_yaml(path)["jobs"].values() for step in job["steps"]]


def make_commands(text: str) -> set[str]:
    return set(re.findall(r"\bmake (?:book|test)\b", text))


# --- the environment


def test_every_declared_package_is_locked_at_a_version_that_fits() -> None:
    groups = [project()["dependencies"], *project()["optional-dependencies"].values()]
    declared = [requirement for group in groups for requirement in group]
    versions = locked()
    for requirement in map(Requirement, declared):
        found = versions.get(canonicalize_name(requirement.name))
        assert found, f"{requirement.name} is declared in pyproject.toml but not locked: run `make lock`"
        assert all(version in requirement.specifier for version in found), f"{requirement} is locked at {found}"


def test_the_lock_for_colab_has_colabs_versions_and_a_hash_for_each() -> None:
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"]
    versions = locked("requirements-colab.lock")
    for name, version in (pin.split("==") for pin in pins if "==" in pin):
        assert versions[canonicalize_name(name)] == [version]
    entries = re.split(r"\n(?! )", (ROOT / "requirements-colab.lock").read_text().strip())
    assert len(entries) == len(versions)
    assert all("--hash=sha256:" in entry for entry in entries)


def test_environment_takes_its_packages_from_the_lock() -> None:
    dependencies = read_yaml(ROOT / "environment.yml")["dependencies"]
    conda = [entry for entry in dependencies if isinstance(entry, str)]
    pip = [line for entry in dependencies if isinstance(entry, dict) for line in entry["pip"]]
    assert pip == ["-r requirements.lock"]
    assert [re.split(r"[=<> ]", entry)[0] for entry in conda] == ["python", "pip"]
    python = re.search(r"python=(\d+\.\d+)", conda[0])
    assert python
    assert SpecifierSet(project()["requires-python"]).contains(python[1])


def test_post_build_adds_the_library_and_nothing_else() -> None:
    script = ROOT / "postBuild"
    assert script.stat().st_mode & 0o111
    installs = re.findall(r"^.*pip install.*$", script.read_text(), re.M)
    assert installs == ["python -m pip install --no-deps --no-build-isolation --editable ."]


# --- the two commands, here and in CI


def test_readme_shows_the_two_commands_first() -> None:
    first = code_blocks(ROOT / "README.md", "bash")[0]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make book", "make test"]


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+(?: [a-z-]+)*):(?!=)", (ROOT / "Makefile").read_text(), re.M))
    assert {"book", "test"} <= {name for names in targets for name in names.split()}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_runs_what_ci_run_runs(path: Path) -> None:
    own = make_commands((ROOT / ".ci" / "run").read_text())
    assert own == {"make book", "make test"}
    runs = [step["run"].strip() for step in steps(path) if "run" in step]
    assert {command for run in runs for command in (own if run == ".ci/run" else make_commands(run))} == own


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_covers_the_declared_pythons_and_pins_its_actions(path: Path) -> None:
    jobs = read_yaml(path)["jobs"]
    matrices = [job["strategy"]["matrix"]["python"] for job in jobs.values() if "strategy" in job]
    pythons = SpecifierSet(project()["requires-python"])
    supported = [f"3.{minor}" for minor in range(9, 20) if pythons.contains(f"3.{minor}")]
    assert matrices == [supported]
    # A tag can be moved to other code; a commit cannot. The version behind it is for the reader.
    uses = re.findall(r"uses: (.*)", path.read_text())
    assert all(re.fullmatch(r"[\w-]+/[\w/-]+@[0-9a-f]{40} # v[\d.]+", use) for use in uses)


def test_the_weekly_workflow_uses_no_cache() -> None:
    text = (ROOT / ".github" / "workflows" / "weekly.yml").read_text()
    assert "schedule" in text
    assert not re.search(r"^\s*cache", text, re.M)


def test_public_addresses_come_from_the_environment_alone() -> None:
    environments = [step["env"] for step in steps(CI) if step.get("run") == "make book"]
    assert len(environments) == 1
    for name in ("ABPN_SITE_URL", "ABPN_REPOSITORY_URL"):
        assert re.fullmatch(r"\$\{\{ .*\bgithub\.repository.* \}\}", environments[0][name])


def test_the_published_book_goes_on_without_images_that_cannot_be_fetched(tmp_path: Path) -> None:
    step, = (step for step in steps(CI) if step.get("id") == "fetched")
    script = step["run"].replace("make .venv/.installed\n", "")
    script = script.replace(".venv/bin/abpn", f"{sys.executable} -m abpn_lib.cli")
    nobody = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
    environment = {**os.environ, **nobody, "HOME": str(tmp_path), "NO_PROXY": "", "no_proxy": ""}
    environment |= {name: str(tmp_path / name) for name in ("GITHUB_ENV", "GITHUB_OUTPUT")}
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert re.findall(r"::warning::(\w+) is not at hand", done.stdout) == list(datasets.BENCHMARKS)
    assert (tmp_path / "GITHUB_OUTPUT").read_text() == "whole=no\n"
    assert (tmp_path / "GITHUB_ENV").read_text() == f"ABPN_DATA={tmp_path}/abpn-data\n"


def test_the_site_is_published_where_colab_looks_for_it() -> None:
    (push,) = [step["run"] for step in steps(CI) if "git push" in step.get("run", "")]
    address = site.Address("https://owner.github.io/book", "https://github.com/owner/book")
    branch = address.colab.split("/blob/")[1].split("/")[0]
    assert push.strip().endswith(f" {branch}")


class _AsksForAName(http.server.BaseHTTPRequestHandler):
    """A server that wants to know who comes, and then lets nobody in; it keeps what it was told."""

    told: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        told = self.headers.get("Authorization")
        self.told += [told] if told else []
        self.send_response(403 if told else 401)
        self.send_header("WWW-Authenticate", 'Basic realm="git"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_the_publish_token_reaches_the_server_and_stands_in_no_address_or_file(tmp_path: Path) -> None:
    (step,) = [step for step in steps(CI) if "git push" in step.get("run", "")]
    assert "TOKEN" not in re.search(r"^git push .*$", step["run"], re.M)[0]  # type: ignore[index]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _AsksForAName) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {
            **os.environ, "TOKEN": "s3cret", "GITHUB_SHA": "0", "GITHUB_REPOSITORY": "owner/book",
            "GITHUB_SERVER_URL": f"http://127.0.0.1:{server.server_port}", "GIT_TERMINAL_PROMPT": "0",
            "no_proxy": "127.0.0.1", "HOME": str(tmp_path),
        }
        (tmp_path / "site").mkdir()
        done = subprocess.run(["bash", "-ec", step["run"]], cwd=tmp_path / "site", env=environment, capture_output=True,
                              text=True, check=False)
        server.shutdown()
    expected = base64.b64encode(b"x-access-token:s3cret").decode()
    assert f"Basic {expected}" in _AsksForAName.told, done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]


def test_ci_script_is_sound_bash() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)


# --- citation and bibliography


def test_citation_agrees_with_the_project() -> None:
    citation = read_yaml(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert str(citation["version"]) == project()["version"]
    assert citation["license"] == project()["license"] == "MIT"
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in project()["authors"]]
    assert f"## {project()['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_citation_has_its_entry() -> None:
    entries = re.findall(r"^@\w+\{([^,]+),", (ROOT / "book" / "references.bib").read_text(), re.M)
    assert len(entries) == len(set(entries))
    sources = [*PAGES, *sorted((ROOT / "notebooks").glob("*.ipynb"))]
    cited = {
        key.strip()
        for source in sources
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", source.read_text())
        for key in keys.split(",")
    }
    assert cited <= set(entries)


# --- prose against code


def documented_commands() -> list[str]:
    lines = (line.strip() for page in PAGES for block in code_blocks(page, "bash") for line in block.splitlines())
    return sorted({line for line in lines if line.startswith("abpn ")})


@pytest.mark.parametrize("line", documented_commands())
def test_documented_command_is_one(line: str) -> None:
    options = cli.parser().parse_args(shlex.split(line)[1:])
    assert callable(options.run)


def test_models_named_in_commands_are_shipped() -> None:
    shipped = {model.name for model in models.catalogue()}
    if not shipped:
        pytest.skip("no models are shipped yet")
    words = {word for line in documented_commands() for word in shlex.split(line)}
    named = {word for word in words if re.fullmatch(r"[a-z-]+-(fp32|int8-ptq|int8-qat)", word)}
    assert named
    assert named <= shipped


def test_readme_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            if target == "claims.md":  # generated from the ledger by the build
                continue
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_protocol_page_names_the_protocols_of_the_code() -> None:
    page = (ROOT / "book" / "protocol.md").read_text()
    assert f"`{metrics.AUTHORS.name}`" in page
    assert f"`{metrics.Y_BORDER3.name}`" in page


# --- nothing that belongs to one machine


def strays(text: str) -> list[str]:
    """Local paths, leftover markers and merge conflicts in a text."""
    patterns = (
        r"(?<![\w.~-])/(?:work|root|home/\w+|Users/\w+)/[\w.-]+",
        r"\b(?:TODO|FIXME|XXX|TBD)\b", r"^(?:<{7} |>{7} )",
    )
    return [match for pattern in patterns for match in re.findall(pattern, text, re.M)]


def test_strays_are_seen() -> None:
    bad = ["see /root/main/x.py", "in /home/me/data", "TODO: later", "<<<<<<< HEAD"]
    assert all(strays(text) for text in bad)
    assert not strays("`notebooks/01-network.ipynb`, ~/abpn-data, https://example.org/home/index.html")


def test_no_tracked_text_file_has_strays() -> None:
    listing = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout: nothing says which files belong to the project")
    found = {}
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        if path == Path(__file__).resolve() or not path.is_file():
            continue
        try:
            hits = strays(path.read_text())
        except UnicodeDecodeError:  # a model or an image
            continue
        if hits:
            found[name] = hits
    assert not found
