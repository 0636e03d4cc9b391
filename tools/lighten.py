"""The last step to a page: icons in place, pictures in files, a description, a policy, faults mended."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import re
import shutil
from pathlib import Path

from PIL import Image

from abpn_lib.files import write_atomically
from tools import BuildError
from tools.cards import card_of
from tools.styles import bundle

# Jupyter Book puts MathJax and Thebe, both from CDNs, into every page, and Thebe twice, which is a script error. The
# book writes its few formulas in plain characters and runs no code in pages. FontAwesome's script weighs 1.5 MB.
# No page has tabs, cards or cells that Sphinx's own toggles fold.
_PARTS = "sphinx-thebe|fontawesome|togglebutton|design-tabs|sphinx-design"
_UNUSED = re.compile(
    r"<script[^>]*>\s*(?:window\.MathJax|const THEBE_JS_URL|kernelName =|(?:var|let) toggle).*?</script>"
    r"|<script[^>]*>\s*DOCUMENTATION_OPTIONS\.(?:pagename|search_as_you_type)\b.*?</script>"
    r"|<script type=\"text/x-thebe-config\">.*?</script>"
    rf"|<script[^>]*\bsrc=\"[^\"]*(?:mathjax|{_PARTS})[^\"]*\"[^>]*></script>"
    rf"|<link[^>]*\bhref=\"[^\"]*(?:{_PARTS})[^\"]*\"[^>]*/?>"
    # Fetched early, scripts would keep the page's style and words waiting.
    r'|<link rel="preload" as="script"[^>]*>', re.DOTALL,
)
# What the theme and its extensions write against the rules of accessibility (axe's `label-content-name-mismatch`,
# `aria-deprecated-role`, `aria-required-children` and `region`).
_REPAIRS = {
    '<summary aria-label="Toggle hidden content">': "<summary>", ' role="doc-biblioentry"': "",
    '<div role="list" class="citation-list">': '<div class="citation-list">',
    # A policy allows no script in attributes; `pages.js` does what they did.
    ' onclick="toggleFullScreen()"': ' data-does="fill"', ' onclick="window.print()"': ' data-does="print"',
    '<div id="pst-primary-sidebar"': '<div id="pst-primary-sidebar" role="complementary" aria-label="All pages"',
}
# What only the page of the search needs.
_OF_SEARCH = re.compile(r'<script[^>]*src="[^"]*\b(?:searchtools|language_data|searchindex)\.js[^>]*></script>')
_SEARCH = re.compile(r'(<button class="btn search-button-field[^>]*?) aria-label="Search"')
_ICON = re.compile(r'<(i|span) class="([^"]*\bfa[s-][^"]*)"([^>]*)></\1>')
_SCRIPT = re.compile(r"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", re.DOTALL)
# Styles stand in attributes all over: notebooks' output has them, so that it stands alone in Colab.
_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; script-src 'self'"
)
_PICTURE = re.compile(r'<(img|source)\b([^>]*?)\b(src|srcset)="data:image/png;base64,([^"]+)"')


def lighten(pages: Path, site: str = "") -> None:
    """Take unused scripts out of every page below `pages`, draw its icons as SVG, and write its pictures as files.

    Its style sheets become one (`tools.styles`). Pictures become lossless WebP, named by their content. Each page gets
    a description, with its card's address where the `site`'s is known, and a policy that allows the scripts that it
    has now and no other. Raises `BuildError` for an icon that the theme's FontAwesome does not have.
    """
    script = pages / "_static" / "scripts" / "fontawesome.js"
    drawings = script.read_text() if script.is_file() else ""
    icon = functools.cache(functools.partial(_icon, drawings))
    for path in pages.rglob("*.html"):
        root = "../" * (len(path.relative_to(pages).parts) - 1)
        text = _SEARCH.sub(r"\1", _UNUSED.sub("", path.read_text()))
        for written, right in _REPAIRS.items():
            text = text.replace(written, right)
        if path.name != "search.html":
            text = _OF_SEARCH.sub("", text)
        # In their order, but after the page is there to be read.
        text = text.replace('<script src="', '<script defer src="')
        text = _described(text, site, path.relative_to(pages).with_suffix("").as_posix())
        text = _ICON.sub(lambda found: icon(found[2], found[3]), text)
        text = _PICTURE.sub(functools.partial(_picture, pages / "_images", root), text)
        write_atomically(path, _guarded(text).encode())
    bundle(pages)
    for part in (script, script.with_suffix(".js.map")):
        part.unlink(missing_ok=True)
    shutil.rmtree(pages / "_static" / "vendor" / "fontawesome", ignore_errors=True)


def _guarded(text: str) -> str:
    """A page with a Content-Security-Policy: its own files, and its inline scripts by their hashes."""
    scripts = dict.fromkeys(_SCRIPT.findall(text))
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = [_POLICY, *(f"'sha256-{one}'" for one in hashes)]
    if 'src="try/app.js"' in text:  # LiteRT is WebAssembly
        allowed.append("'wasm-unsafe-eval'")
    meta = f'<meta http-equiv="Content-Security-Policy" content="{" ".join(allowed)}">'
    return text.replace('<meta charset="utf-8" />', f'<meta charset="utf-8" />\n{meta}', 1)


def _described(text: str, site: str, name: str) -> str:
    """A page that search engines and previews know by its title, first paragraph and card."""
    title = re.search(r"<title>(.*?)</title>", text, re.DOTALL)
    first = re.search(r"</h1>.*?<p>(.*?)</p>", text, re.DOTALL)
    if not (title and first) or 'name="description"' in text:
        return text
    said = " ".join(re.sub(r"<[^>]*>|[¶\"]", "", first[1]).split())[:200]
    heading = title[1].strip().replace('"', "")
    card = (
        f'\n<meta property="og:url" content="{site}/{name}.html">'
        f'\n<meta property="og:image" content="{site}/{card_of(name)}">'
        '\n<meta name="twitter:card" content="summary_large_image">'
    ) if site else ""
    return text.replace("</title>", (
        f'</title>\n<meta name="description" content="{said}">\n<meta property="og:title" content="{heading}">\n'
        f'<meta property="og:description" content="{said}">\n<meta property="og:type" content="article">'
        f"{card}"
    ), 1)


def _icon(drawings: str, classes: str, attributes: str) -> str:
    """An icon as SVG, with the classes and attributes of the element that FontAwesome's script would have replaced."""
    for name in re.findall(r"\bfa-([\w-]+)", classes):
        # Of one name the solid drawing, which the theme uses, comes last.
        if shapes := re.findall(rf'[{{,]"?{name}"?:\[(\d+),(\d+),\[[^\]]*\],"\w*","([^"]+)"\]', drawings):
            width, height, path = shapes[-1]
            return (f'<svg class="icon {classes}" viewBox="0 0 {width} {height}" aria-hidden="true"{attributes}>'
                    f'<path d="{path}"/></svg>')
    raise BuildError(f"the theme has no icon for {classes!r}")


def _picture(folder: Path, root: str, found: re.Match[str]) -> str:
    tag, before, source, data = found.groups()
    png = base64.b64decode(data)
    path = folder / f"{hashlib.sha256(png).hexdigest()[:16]}.webp"
    if not path.is_file():
        buffer = io.BytesIO()
        Image.open(io.BytesIO(png)).save(buffer, "WEBP", lossless=True, quality=60, method=3)
        folder.mkdir(exist_ok=True)
        write_atomically(path, buffer.getvalue())
    lazy = 'loading="lazy" decoding="async" ' if tag == "img" else ""
    return f'<{tag}{before}{lazy}{source}="{root}_images/{path.name}"'
