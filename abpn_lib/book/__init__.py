"""What a notebook shows, as a handful of verbs: a page, tables, pictures, and the verdicts on the paper's claims.

Every number on a page is *measured* (by this run), *recorded* (by a full run, shipped with the library), *estimated*
(by a compiler) or *quoted* (from the paper), and shows which: in text as well as in style, so that no two kinds look
alike, on a page or in a plain notebook. `abpn_lib.values` knows the kinds; the verbs refuse bare numbers.
"""

from abpn_lib.book.boxes import badges, in_short, provenance, verdict_boxes, verdicts
from abpn_lib.book.figures import bars, error_maps, image_grid, is_narrow, label_points, lines, themed
from abpn_lib.book.pages import Page, page
from abpn_lib.book.tables import Html, compare, mean, mean_and_range, note, table
from abpn_lib.claims.shapes import SIGNS

__all__ = [
    "SIGNS", "Html", "Page", "badges", "bars", "compare", "error_maps", "image_grid", "in_short", "is_narrow",
    "label_points", "lines", "mean", "mean_and_range", "note", "page", "provenance", "table", "themed",
    "verdict_boxes", "verdicts",
]
