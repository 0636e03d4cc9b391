"""A copy of the companion that lasts: one file with all of it, as Zenodo takes it, that proves itself whole.

The ZIP is an RO-Crate: ``ro-crate-metadata.json`` says what is in it. ``source/`` is the commit, with the models, the
shipped records and the list of data with hashes; ``site/`` the built book, with its PDF where there is one and the
ledger as JSON; ``records/`` what that build measured. ``manifest-sha256.txt`` has the hash of every other file, as
``sha256sum -c`` reads it. The same commit and build give the same bytes.

Source: RO-Crate 1.1, https://w3id.org/ro/crate/1.1
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import io
import json
import mimetypes
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abpn_lib import cli
from abpn_lib.files import whole
from tools import BuildError

_CRATE, _MANIFEST = "ro-crate-metadata.json", "manifest-sha256.txt"
_PARTS = {
    "source/": "The source at this commit, with the models and the records of long runs",
    "site/": "The built book: open index.html",
    "records/": "What the build of this book measured: a file of records for each page",
}
_KNOWN = {
    "source/abpn_lib/registry.csv": "The data: path, sha256, address and licence of every file, none of which is here",
    "site/book/claims.json": "The ledger: for each claim of the paper its statement, quantities and rule, the records "
    "with the commands that made them, and the verdict",
}


def write(out: Path, *, root: Path, site: Path, records: Path) -> int:
    """Write the archive of a checkout's commit, of a built site and of its records; return the number of files.

    Raises
    ------
    BuildError
        If the checkout has changes that no commit has, the site or the records are not there, or what was written does
        not read back as it should.
    """
    if changed := _git(root, "status", "--porcelain", "--untracked-files=no").decode():
        raise BuildError(f"{changed.split()[1]} differs from the commit: commit or undo the change first")
    if not (site / "book" / "claims.json").is_file() or not records.is_dir():
        raise BuildError(f"there is no whole book in {site} and {records}: run `make book` first")
    files = _source(root)
    for name, folder in (("site", site), ("records", records)):
        files |= {f"{name}/{path.relative_to(folder).as_posix()}": (path.read_bytes(), 0o644)
                  for path in folder.rglob("*") if path.is_file()}
    commit, date = _git(root, "show", "-s", "--format=%H %cI", "HEAD").decode().split()
    files[_CRATE] = (crate({name: content for name, (content, _) in files.items()}, commit, date), 0o644)
    lines = [f"{hashlib.sha256(files[name][0]).hexdigest()}  {name}\n" for name in sorted(files)]
    files[_MANIFEST] = ("".join(lines).encode(), 0o644)
    moment = datetime.datetime.fromisoformat(date).astimezone(datetime.UTC).timetuple()[:6]
    with whole(out) as scratch:
        with zipfile.ZipFile(scratch, "w") as archive:
            for name, (content, mode) in sorted(files.items()):
                entry = zipfile.ZipInfo(name, moment)
                entry.external_attr, entry.create_system = (0o100000 | mode) << 16, 3
                archive.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)
        verify(scratch)
    return len(files)


def verify(path: Path) -> int:
    """Hold every file of an archive to its manifest; return how many there are.

    Raises
    ------
    BuildError
        If it is no such archive, or a file is missing, changed or not listed: the first of them is named.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
            lines = archive.read(_MANIFEST).decode().splitlines()
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise BuildError(f"{path} is no whole archive of this companion ({error}): fetch it again") from error
    found.pop(_MANIFEST)
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if wrong := sorted(name for name in found.keys() | listed.keys() if found.get(name) != listed.get(name)):
        raise BuildError(f"{path}: {wrong[0]} is not as the manifest says: fetch the archive again")
    return len(listed)


def crate(files: Mapping[str, bytes], commit: str, date: str) -> bytes:
    """The RO-Crate metadata of these files, by their paths; who, what and which licence are those of codemeta.json."""
    about = json.loads(files["source/codemeta.json"])
    article = about["referencePublication"]
    texts = _KNOWN | {name: "The book as one PDF" for name in files if Path(name).match("site/*.pdf")}

    def parts(folder: str) -> list[dict[str, str]]:
        return [{"@id": name} for name in sorted(files) if name.startswith(folder)]

    root = {
        "@id": "./", "@type": "Dataset", "datePublished": date, "version": about["version"], "identifier": commit,
        "author": {"@id": "#authors"}, "license": {"@id": about["license"]}, "citation": {"@id": article["@id"]},
        "hasPart": [{"@id": folder} for folder in _PARTS], "mentions": {"@id": "site/book/claims.json"},
        **{key: about[key] for key in ("name", "description", "keywords")},
    }
    entities: list[dict[str, Any]] = [
        {"@id": _CRATE, "@type": "CreativeWork", "about": {"@id": "./"},
         "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"}},
        root, {"@id": "#authors", **about["author"][0]}, article,
        {"@id": about["license"], "@type": "CreativeWork", "name": about["license"].rpartition("/")[2]},
        *({"@id": name, "@type": "Dataset", "name": text, "hasPart": parts(name)} for name, text in _PARTS.items()),
    ]
    types = mimetypes.MimeTypes()  # Python's own list, without the machine's
    for name, content in sorted(files.items()):
        form = types.guess_type(name)[0] or "application/octet-stream"
        entity = {"@id": name, "@type": "File", "contentSize": str(len(content)), "encodingFormat": form}
        entities.append(entity | ({"description": texts[name]} if name in texts else {}))
    graph = {"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": entities}
    return json.dumps(graph, indent=1, ensure_ascii=False).encode()


def _source(root: Path) -> dict[str, tuple[bytes, int]]:
    """The files of the commit and their modes, below ``source/``."""
    with tarfile.open(fileobj=io.BytesIO(_git(root, "archive", "--format=tar", "--prefix=source/", "HEAD"))) as tar:
        # Git marks as executable what is, and leaves the rest of the mode to a setting of each user.
        return {entry.name: (file.read(), 0o755 if entry.mode & 0o100 else 0o644)
                for entry in tar if (file := tar.extractfile(entry))}


def _git(root: Path, *words: str) -> bytes:
    try:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"{root} is no git checkout with a commit ({error}): archive a clone") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description="Write, or check, one file with all of the companion.")
    parser.add_argument("--out", type=Path, default=Path("_build/abpn.zip"), help="the file to write")
    parser.add_argument("--check", type=Path, default=None, metavar="FILE", help="only hold this file to its manifest")
    parser.set_defaults(run=_run)
    return parser


def _run(options: argparse.Namespace) -> None:
    build = Path("_build")
    if options.check:
        print(f"{options.check}: {verify(options.check)} files as the manifest says")
    else:
        count = write(options.out, root=Path(), site=build / "html", records=build / "records")
        print(f"{options.out}: {count} files, {options.out.stat().st_size} bytes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; bad input gives one line and status 2."""
    return cli.answer(_PROGRAM, _parser, sys.argv[1:] if arguments is None else arguments)


_PROGRAM = "python -m tools.archive"

if __name__ == "__main__":
    sys.exit(main())
