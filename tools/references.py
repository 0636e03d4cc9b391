"""Where a page's prose names a claim, a term of the glossary or a figure, it becomes a reference.

The sources stay plain Markdown, which Colab and an editor show as well: only the staged copy has MyST's roles. The
previews that the script ``previews.js`` shows are those of the references' targets.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from bs4 import BeautifulSoup, Tag

from abpn_lib.files import write_atomically

__all__ = ["Linker", "terms", "write_previews"]

# Code, directives, headings, roles, links, targets and HTML are left as they are.
_KEPT = re.compile(
    r"^(?P<fence>`{3,}|~{3,}|:{3,}).*?^(?P=fence)[^\n]*$|^(?:#|\([\w-]+\)=|\[[^\]]*\]:|\{\.)[^\n]*$|^<.*?(?:\n\n|\Z)"
    r"|(?:\{[\w:]+\})?(?P<tick>`+)[^`].*?(?P=tick)|!?\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])|<[^>]*>|\bhttps?://\S+",
    re.DOTALL | re.MULTILINE,
)
_FIGURE = re.compile(r"^\[[^\]]*\]\(#([\w-]+)\)$", re.DOTALL)
_CLAIM = re.compile(r"\b(?:S\d+|[TF]\d+\.\w[\w.-]*\w)\b")


class Linker:
    """Makes one page's references: each claim's, and the first of each term.

    `claims` holds the ids of all claims, `cells` those of all notebooks' cells; `terms` maps what a page may say to the
    glossary's term.
    """

    def __init__(self, claims: Container[str], terms: Mapping[str, str], cells: Container[str] = ()) -> None:
        self._claims, self._cells = claims, cells
        self._terms = dict(terms)
        words = "|".join(re.escape(word) for word in sorted(terms, key=len, reverse=True))
        self._word = re.compile(rf"(?<![\w-])(?:{words})(?![\w-])") if words else None

    def linked(self, text: str) -> str:
        """Markdown with MyST's roles in it; a link ``[this table](#CELL)`` becomes that output's number."""
        parts, at = [], 0
        for kept in _KEPT.finditer(text):
            figure = _FIGURE.match(kept[0])
            one = f"{{numref}}`{figure[1]}`" if figure and figure[1] in self._cells else kept[0]
            parts += [self._prose(text[at : kept.start()]), one]
            at = kept.end()
        return "".join([*parts, self._prose(text[at:])])

    def _prose(self, text: str) -> str:
        # A term never holds a claim's id, so one does not look into what the other made.
        text = self._word.sub(self._term, text) if self._word else text
        return _CLAIM.sub(
            lambda found: f"{{ref}}`{found[0]} <claim-{found[0].lower().replace('.', '-')}>`"
            if found[0] in self._claims else found[0], text,
        )

    def _term(self, found: re.Match[str]) -> str:
        term = self._terms.get(found[0])
        if term is None:
            return found[0]
        self._terms = {word: other for word, other in self._terms.items() if other != term}
        return f"{{term}}`{found[0]} <{term}>`"


def terms(glossary: str) -> dict[str, str]:
    """What a page may say (a term, its plural, and either with a capital) -> the term, of a glossary's Markdown."""
    block = re.search(r"^```\{glossary\}\n(.*?)^```", glossary, re.DOTALL | re.MULTILINE)
    named = re.findall(r"^\S.*$", block[1], re.MULTILINE) if block else []
    return {form: term for term in named for word in (term, term[0].upper() + term[1:]) for form in (word, f"{word}s")}


def write_previews(pages: Path) -> None:
    """Write ``_static/preview-data.js``: what each claim, citation and term that a page refers to says, as HTML.

    It is a script and not JSON, since a browser reads that from a folder, too.
    """
    found: dict[str, str] = {}
    for path, choose, tell in (
        ("book/claims.html", "details.claim", _claim), ("book/bibliography.html", "div.citation", _citation),
        ("book/glossary.html", "dt[id^=term-]", _term),
    ):
        if (pages / path).is_file():
            targets = BeautifulSoup((pages / path).read_text(), "html.parser").select(choose)
            found |= {f"{path}#{target['id']}": tell(target) for target in targets}
    used = {target: found[target] for target in _referred(pages) if target in found}
    text = json.dumps(used, ensure_ascii=False, indent=0, sort_keys=True)
    write_atomically(pages / "_static" / "preview-data.js", f"globalThis.previews = {text};\n".encode())


def _referred(pages: Path) -> Iterable[str]:
    for path in pages.glob("*/*.html"):
        for address in re.findall(r'<a [^>]*href="([^":]*#[^"]+)"', path.read_text()):
            target = urllib.parse.urljoin(path.relative_to(pages).as_posix(), address)
            yield urllib.parse.unquote(target)


def _inner(tag: Tag | None) -> str:
    return "".join(map(str, tag.contents)).strip() if tag else ""


def _claim(target: Tag) -> str:
    says = {str(dt.string): _inner(dt.find_next_sibling("dd")) for dt in target.select("dl > dt")}
    badge, statement = target.select_one(".claim-badge"), target.select_one(".claim-says")
    quoted = f'<br>The paper: <span class="kind-quoted">{says["The paper"]}</span>' if "“" in says["The paper"] else ""
    return (f"<strong>{_inner(target.select_one('.claim-id'))}</strong> {badge}<br>{_inner(statement)}{quoted}"
            f"<br>Here: {says['Here']}")


def _citation(target: Tag) -> str:
    return " ".join(_inner(paragraph) for paragraph in target.select("p"))


def _term(target: Tag) -> str:
    for link in target.select("a.headerlink"):
        link.decompose()
    return f"<strong>{target.get_text().strip()}</strong>: {_inner(target.find_next_sibling('dd'))}"
