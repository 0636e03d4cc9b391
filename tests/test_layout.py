"""From an executed notebook to a page: what comes first, what is folded, whose verdict it shows."""

from __future__ import annotations

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from abpn_lib import book, claims, results
from tools import layout

JUDGED = {claim.id: (claim, judgement) for claim, judgement in claims.ledger(results.recorded())}


def notebook(*cells: NotebookNode) -> NotebookNode:
    return nbformat.v4.new_notebook(cells=list(cells))


def shows(html: str, *tags: str) -> NotebookNode:
    output = new_output("display_data", data={"text/html": html})
    return new_code_cell("", outputs=[output], metadata={"tags": list(tags)})


def sources(page: NotebookNode) -> list[str]:
    return [cell.source for cell in page.cells]


def test_what_is_tagged_opening_follows_the_title_as_answer_figure_table() -> None:
    page = layout.page_of(notebook(
        new_markdown_cell("# Title"), new_code_cell("setup"), new_markdown_cell("## Result"),
        new_code_cell("book.table()", metadata={"tags": ["opening"]}), new_code_cell("other"),
        new_code_cell("book.bars()", metadata={"tags": ["hide-input", "opening"]}),
        new_code_cell("book.in_short()", metadata={"tags": ["opening"]}),
    ), JUDGED)
    assert sources(page) == ["# Title", "book.in_short()", "book.bars()", "book.table()", "setup", "## Result", "other"]


def test_how_it_was_done_and_further_questions_are_folded_up_to_the_next_heading() -> None:
    page = layout.page_of(notebook(
        new_markdown_cell("# Title\n\n## What we run\n\nThis."), new_code_cell("run"),
        new_markdown_cell("## Result"), new_markdown_cell("### Further\n\nMore."), new_code_cell("more"),
        new_markdown_cell("### Last\n\nText."),
    ), JUDGED)
    nbformat.validate(page)
    how, = layout.FOLDED.values()
    assert sources(page) == [
        "# Title", "## What we run", f'<details class="more"><summary>{how}</summary>', "This.", "run", "</details>",
        "## Result", '<details class="more"><summary>Further</summary>', "More.", "more", "</details>",
        '<details class="more"><summary>Last</summary>', "Text.", "</details>",
    ]


def test_a_page_shows_the_ledgers_verdicts_in_boxes_and_badges() -> None:
    alone = book.in_short("So.", claims=["S8", "S5"], records=[]).html + book.verdicts(["S8"], []).html
    assert 'data-verdict="not testable here"' in alone
    page = layout.page_of(notebook(shows(alone)), JUDGED)
    shown = page.cells[0].outputs[0].data["text/html"]
    assert "not testable here" not in shown
    assert "by this run alone" not in shown
    assert shown.count('data-claim="S8" data-verdict="reproduced"') == 2, "in the badge and in the box"
    assert f'href="../book/claims.html#{claims.anchor("S5")}"' in shown
