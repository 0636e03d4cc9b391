"""The archive of a real clone of this repository and of a small site: read back by RO-Crate's own library."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from abpn_lib import claims, models, results
from tools import BuildError, archive

ROOT = Path(__file__).parent.parent
CODEMETA = json.loads((ROOT / "codemeta.json").read_text())


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive") / "clone"
    done = subprocess.run(["git", "clone", "--quiet", str(ROOT), str(root)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    (root / "_build" / "html" / "book").mkdir(parents=True)
    (root / "_build" / "records").mkdir()
    (root / "_build" / "html" / "index.html").write_text("<title>the book</title>")
    (root / "_build" / "html" / "abpn.pdf").write_bytes(b"%PDF-1.7")
    ledger = claims.to_json(claims.ledger(results.recorded()))
    (root / "_build" / "html" / "book" / "claims.json").write_text(ledger)
    results.save(root / "_build" / "records" / "01-network.json", results.recorded()[:3])
    return root


def write(root: Path, out: Path) -> int:
    return archive.write(out, root=root, site=root / "_build" / "html", records=root / "_build" / "records")


@pytest.fixture(scope="module")
def made(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "abpn.zip"
    write(clone, out)
    return out


def test_two_runs_give_the_same_bytes(clone: Path, made: Path, tmp_path: Path) -> None:
    count = write(clone, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == made.read_bytes()
    assert archive.verify(made) == count - 1, "all but the manifest itself"


def test_all_parts_are_in_it(clone: Path, made: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(made) as file:
        file.extractall(tmp_path)
        modes = {entry.filename: entry.external_attr >> 16 & 0o777 for entry in file.infolist()}
    tracked = subprocess.run(["git", "-C", str(clone), "ls-files"], capture_output=True, text=True, check=True)
    assert {f"source/{name}" for name in tracked.stdout.splitlines()} <= set(modes)
    assert (modes["source/postBuild"], modes["source/README.md"]) == (0o755, 0o644)
    for model in models.catalogue():
        content = (tmp_path / f"source/abpn_lib/models/{model.path.name}").read_bytes()
        assert hashlib.sha256(content).hexdigest() == model.sha256
    assert {"site/index.html", "site/abpn.pdf", "records/01-network.json"} <= set(modes)
    done = subprocess.run(["sha256sum", "--check", "--quiet", "manifest-sha256.txt"], cwd=tmp_path)
    assert done.returncode == 0


def test_rocrate_reads_it(made: Path) -> None:
    rocrate = pytest.importorskip("rocrate.rocrate", reason="rocrate is not there")
    crate = rocrate.ROCrate(made)
    assert (crate.name, crate.root_dataset["version"]) == (CODEMETA["name"], CODEMETA["version"])
    assert crate.license.id == CODEMETA["license"]
    with zipfile.ZipFile(made) as file:
        names = set(file.namelist()) - {"ro-crate-metadata.json", "manifest-sha256.txt"}
        assert {entity.id for entity in crate.get_by_type("File")} == names
    held = [part.id for folder in ("source/", "site/", "records/") for part in crate.get(folder)["hasPart"]]
    assert sorted(held) == sorted(names)
    assert "PDF" in crate.get("site/abpn.pdf")["description"]
    assert "sha256" in crate.get("source/abpn_lib/registry.csv")["description"]


def test_a_claim_in_it_says_all_that_is_known_of_it(made: Path) -> None:
    with zipfile.ZipFile(made) as file:
        ledger = json.loads(file.read("site/book/claims.json"))
    assert {claim["id"] for claim in ledger} == {claim.id for claim in claims.claims()}
    judged = [claim for claim in ledger if claim["records"]]
    assert judged
    for claim in judged:
        assert all(claim[key] for key in ("statement", "rule", "verdict", "paper"))
        assert all(record["quantity"] and record["context"]["command"] for record in claim["records"])


def test_a_changed_or_cut_file_is_named(made: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.zip"
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(wrong, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"x" if name == "site/index.html" else old.read(name))
    with pytest.raises(BuildError, match=r"site/index\.html is not as the manifest says"):
        archive.verify(wrong)
    wrong.write_bytes(made.read_bytes()[:5000])
    with pytest.raises(BuildError, match=r"wrong\.zip is no whole archive"):
        archive.verify(wrong)


def test_nothing_is_written_of_what_no_commit_has_or_of_half_a_book(clone: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "copy", tmp_path / "out.zip"
    shutil.copytree(clone, copy)
    (copy / "_build" / "html" / "book" / "claims.json").unlink()
    with pytest.raises(BuildError, match="make book"):
        write(copy, out)
    (copy / "README.md").write_text("changed")
    with pytest.raises(BuildError, match=r"README\.md differs"):
        write(copy, out)
    with pytest.raises(BuildError, match="no git checkout"):
        write(tmp_path, out)
    assert not out.exists()


def test_codemeta_agrees_with_the_citation_and_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert CODEMETA["version"] == str(citation["version"]) == project["version"]
    assert (CODEMETA["name"], CODEMETA["keywords"]) == (citation["title"], citation["keywords"])
    assert CODEMETA["description"] == citation["abstract"]
    assert CODEMETA["license"].endswith(f"/{citation['license']}")
    assert CODEMETA["author"] == [{"@type": "Organization", **author} for author in citation["authors"]]
    assert CODEMETA["runtimePlatform"] == f"Python {project['requires-python']}"
    (paper,) = citation["references"]
    assert CODEMETA["referencePublication"]["name"] == paper["title"]
    assert CODEMETA["referencePublication"]["@id"].rpartition("/")[2] in paper["identifiers"][0]["value"]
