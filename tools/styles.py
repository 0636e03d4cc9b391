"""One small style sheet in place of the theme's many: of its rules those that a page of this site can need."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import tinycss2

from abpn_lib.files import write_atomically

__all__ = ["bundle", "needed"]

_SHEET = re.compile(
    r'[ \t]*<link\b(?=[^>]*rel="stylesheet")[^>]*href="(?:\.\./)*_static/([^"?]+)(?:\?[^"]*)?"[^>]*>\n?'
)
_NAME = re.compile(r"[.#]((?:[\w-]|\\.)+)")
# Neither what is said not to hold, nor what one of several may hold, has to be there.
_ARGUMENTS = re.compile(r"\((?:[^()]|\([^()]*\))*\)|\[[^\]]*\]")


def bundle(pages: Path) -> None:
    """Put one style sheet into each page below `pages` in place of those of ``_static`` that its head names."""
    texts = {path: path.read_text() for path in pages.rglob("*.html") if "_static" not in path.parts}
    scripts = (path.read_text() for path in (pages / "_static").rglob("*.js"))
    words = {word for text in (*texts.values(), *scripts) for word in re.findall(r"[\w-]+", text)}
    made: dict[tuple[str, ...], str] = {}
    for path, text in texts.items():
        sheets = tuple(_SHEET.findall(text))
        if not sheets:
            continue
        if sheets not in made:
            content = "\n".join(needed(_whole(pages / "_static" / sheet), words) for sheet in sheets).encode()
            made[sheets] = f"site-{hashlib.sha256(content).hexdigest()[:16]}.css"
            write_atomically(pages / "_static" / made[sheets], content)
        root = "../" * (len(path.relative_to(pages).parts) - 1)
        link = f'<link rel="stylesheet" href="{root}_static/{made[sheets]}">\n'
        first = _SHEET.search(text)
        assert first
        text = text[: first.start()] + link + _SHEET.sub("", text[first.start() :])
        write_atomically(path, text.encode())


def needed(sheet: str, words: Collection[str]) -> str:
    """The rules of a style sheet whose classes and ids are all among `words`."""
    rules = tinycss2.parse_stylesheet(sheet, skip_comments=True, skip_whitespace=True)
    return "\n".join(_needed(rules, words))


def _needed(rules: list[Any], words: Collection[str]) -> Iterator[str]:
    for rule in rules:
        if rule.type == "qualified-rule":
            kept = [one for one in _selectors(rule.prelude) if _possible(one, words)]
            if kept:
                yield f"{','.join(kept)}{{{tinycss2.serialize(rule.content).strip()}}}"
        elif rule.type == "at-rule" and rule.at_keyword in ("media", "supports", "layer") and rule.content is not None:
            inner = "\n".join(_needed(tinycss2.parse_rule_list(rule.content, True, True), words))
            if inner:
                yield f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{inner}}}"
        # No page needs a font of its own: icons are drawn, and the theme's weigh 157 kB.
        elif rule.type == "at-rule" and rule.at_keyword not in ("charset", "font-face"):
            yield rule.serialize()


def _selectors(prelude: list[Any]) -> list[str]:
    parts: list[list[Any]] = [[]]
    for token in prelude:
        if token == ",":
            parts.append([])
        else:
            parts[-1].append(token)
    return [tinycss2.serialize(part).strip() for part in parts]


def _possible(selector: str, words: Collection[str]) -> bool:
    names = _NAME.findall(_ARGUMENTS.sub("", selector))
    # An escaped name, such as Bootstrap's `.w-50\%`, is none of ours to look up.
    return all("\\" in name or name in words for name in names)


def _whole(path: Path) -> str:
    """A style sheet with those that it imports, its addresses as seen from ``_static``."""
    root = next(parent for parent in path.parents if parent.name == "_static")

    def moved(found: re.Match[str]) -> str:
        if ":" in found[1] or found[1].startswith("#"):
            return found[0]
        return f'url("{os.path.relpath(path.parent / found[1], root)}")'

    text = re.sub(r"url\(\s*[\"']?([^\"')]+)[\"']?\s*\)", moved, path.read_text())
    return re.sub(r'@import "([^"]+)";', lambda found: _whole((path.parent / found[1]).resolve()), text)
