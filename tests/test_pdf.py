"""The book on paper: pandoc and Typst at work on a small site, and the built book's PDF."""

from __future__ import annotations

from pathlib import Path

import pypdfium2
import pytest
from PIL import Image

from tools import cards, pdf

ROOT = Path(__file__).parents[1]
WIDE = "".join(f"<td>{number}.0123</td>" for number in range(16))
PAGES = {
    "book/index": """<h1>Home<a class="headerlink" href="#home">¶</a></h1><p>See <a href="../notebooks/one.html#t1">the
        table</a>, <a href="claims.json">a file</a> and <a href="https://example.org/x">elsewhere</a>.</p>
        <form><button>Press</button></form>""",
    "notebooks/one": f"""<h1>One</h1><div class="cell"><details class="above-input"><summary>Show code</summary>
        <pre>secret = 1</pre></details><div id="t1"><div class="table-scroll"><table><caption><span>
        <span class="caption-number">Table 1.1.</span> Wide</span></caption><tr>{WIDE}</tr></table></div></div></div>
        <figure class="themed"><img class="only-light" alt="A grey square" width="672" src="../_images/a.png">
        <img class="only-dark" alt="A grey square" src="../_images/none.png"></figure>
        <details class="more"><summary>Folded</summary><p>Inside = found.</p></details>""",
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name, content in PAGES.items():
        path = tmp_path / f"{name}.html"
        path.parent.mkdir(exist_ok=True)
        title = "One &#8212; All" if name.endswith("one") else "Home"
        article = f'<article class="bd-article"><section id="home">{content}</section></article>'
        path.write_text(f"<title>{title}</title>{article}")
    (tmp_path / "_images").mkdir()
    Image.new("RGB", (60, 40), "grey").save(tmp_path / "_images" / "a.png")
    return tmp_path


def printed(site: Path, public: str = "") -> pypdfium2.PdfDocument:
    pdf.write(site, list(PAGES), site / "all.pdf", title="A book", author="Us & them", site=public)
    return pypdfium2.PdfDocument(site / "all.pdf")


def text_of(document: pypdfium2.PdfDocument) -> str:
    return "\n".join(page.get_textpage().get_text_bounded() for page in document)


def test_what_only_a_screen_can_show_is_left_out(site: Path) -> None:
    text = text_of(printed(site))
    assert {"A book", "Us & them", "Table 1.1.", "Folded", "Inside = found."} <= {
        line.strip() for line in text.replace(" Wide", "\n").splitlines()
    }
    assert not [word for word in ("secret", "Press", "¶", "Show code") if word in text]


def links_of(document: pypdfium2.PdfDocument) -> set[str]:
    raw, found = pypdfium2.raw, set()
    for page in document:
        start, link = raw.c_int(), raw.FPDF_LINK()
        while raw.FPDFLink_Enumerate(page, start, link):
            inside = raw.FPDFLink_GetDest(document, link)
            action = raw.FPDFLink_GetAction(link)
            size = raw.FPDFAction_GetURIPath(document, action, None, 0) if action else 0
            buffer = raw.create_string_buffer(size) if size else None
            if buffer:
                raw.FPDFAction_GetURIPath(document, action, buffer, size)
            found.add(buffer.value.decode() if buffer else f"page {raw.FPDFDest_GetDestPageIndex(document, inside)}")
    return found


def test_links_lead_to_their_place_in_the_book_or_to_the_site(site: Path) -> None:
    links = links_of(printed(site))
    assert {"page 2", "page 3", "https://example.org/x"} == links, "a file is no link where the site has no address"
    assert "https://reader.example/book/claims.json" in links_of(printed(site, "https://reader.example"))


def test_a_wide_table_stays_on_its_page(site: Path) -> None:
    for page in printed(site):
        text = page.get_textpage()
        assert all(text.get_charbox(number)[2] < page.get_width() for number in range(text.count_chars()))
    assert "15.0123" in text_of(printed(site))


def test_the_same_pages_give_the_same_bytes(site: Path) -> None:
    printed(site)
    first = (site / "all.pdf").read_bytes()
    printed(site)
    assert (site / "all.pdf").read_bytes() == first


def test_each_page_has_a_card_for_where_it_is_shared(site: Path) -> None:
    cards.write(site, list(PAGES), "A book")
    home, one = (Image.open(site / cards.card_of(name)).convert("L") for name in PAGES)
    assert home.size == one.size == (1200, 630)
    assert one.getpixel((880, 270)) == 128, "its first figure"
    assert home.getpixel((880, 270)) == 255


def test_the_built_books_pdf_has_every_page() -> None:
    path = ROOT / "_build" / "html" / "abpn.pdf"
    if not path.is_file():
        pytest.skip("the book is not built: make book")
    document = pypdfium2.PdfDocument(path)
    titles = [one.get_title() for one in document.get_toc() if one.level == 0]
    assert len(titles) >= len(pdf.chapters(ROOT / "_toc.yml"))
    assert len(document) > 60
    assert path.stat().st_size < 10_000_000
