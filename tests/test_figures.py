from __future__ import annotations

import base64
import io
import itertools
import re

import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib.figure import Figure
from PIL import Image

from abpn_lib.book import Html, figures
from abpn_lib.values import Value


def _line(figure: Figure) -> None:
    axes = figure.add_subplot()
    axes.plot([0, 1, 2], [2, 3, 5])
    axes.set_xlabel("epoch")
    axes.set_ylabel("PSNR [dB]")


def _pictures(shown: Html) -> list[Image.Image]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', shown._repr_html_())
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]


def _ink(image: Image.Image) -> float:
    """The mean brightness of what is drawn, 0 to 255."""
    pixels = np.asarray(image.convert("RGBA")).astype(float)
    drawn = pixels[..., 3] > 128
    assert drawn.any()
    return float(pixels[drawn][:, :3].mean())


def test_one_call_draws_dark_ink_for_light_pages_and_light_ink_for_dark_ones() -> None:
    light, dark = _pictures(figures.themed(_line, alt="PSNR by epoch", width=5, height=3))
    assert light.size == dark.size == (5 * 96 * 2, 3 * 96 * 2)
    assert _ink(light) < 110
    assert _ink(dark) > 145
    for image in (light, dark):
        assert np.asarray(image)[0, 0, 3] == 0, "the ground is transparent"


def test_a_phone_gets_a_drawing_of_its_own_width() -> None:
    seen: list[bool] = []

    def draw(figure: Figure) -> None:
        _line(figure)
        seen.append(figures.is_narrow(figure))

    page = BeautifulSoup(figures.themed(draw, alt="PSNR by epoch").html, "html.parser")
    assert sorted(seen) == [False, False, True, True]
    for picture in page.find_all("picture"):
        assert picture.source["media"] == "(max-width:600px)"
        assert int(picture.source["width"]) <= 375 - 2 * 16 < int(picture.img["width"])
        content = base64.b64decode(picture.source["srcset"].partition(",")[2])
        assert Image.open(io.BytesIO(content)).width == 2 * int(picture.source["width"]), "no letter is made smaller"


def test_names_of_close_points_keep_apart_and_near_their_points() -> None:
    axes = Figure(figsize=(7, 4)).add_subplot()
    points = {f"model {n}": (n, y) for n, y in enumerate((0.0, 0.01, 0.02, 5.0, 9.97, 9.98, 9.99, 10.0))}
    axes.plot(*zip(*points.values(), strict=True))
    figures.label_points(axes, points, {"model 3": "C1"})
    heights = {text.get_text(): text.xyann[1] for text in axes.texts}
    assert list(heights) == list(points), "in the order of their points"
    places = list(heights.values())
    assert min(after - before for before, after in itertools.pairwise(places)) >= 0.2 / 4 - 1e-9
    assert 0 <= min(places) < max(places) <= 1
    assert heights["model 3"] == pytest.approx(0.5, abs=0.05)


def test_error_maps_share_one_scale_and_tell_their_means() -> None:
    errors = {"a": np.full((60, 90), 2.0), "b": np.full((60, 90), 8.0)}
    black = "crop", np.zeros((60, 90, 3), np.uint8)
    shown = figures.error_maps(black, errors, quantity="error", unit="levels")
    assert _alt(shown) == "crop, and maps of its error [levels], mean by map: a 2.00, at most 2; b 8.00, at most 8."
    other = figures.error_maps(black, {**errors, "b": np.full((60, 90), 4.0)}, quantity="error", unit="levels")
    # Where the first map lies: the same errors have another colour once the worst are less.
    first = [np.asarray(_pictures(drawn)[0])[170, 672] for drawn in (shown, other)]
    assert first[0][3] == first[1][3] == 255
    assert not np.array_equal(*first)


def test_only_the_light_drawing_shows_outside_the_book_and_both_have_the_text() -> None:
    page = BeautifulSoup(figures.themed(_line, alt='PSNR "by" epoch <1>', caption="A & B")._repr_html_(), "html.parser")
    light, dark = page.find_all("img")
    assert light["alt"] == dark["alt"] == 'PSNR "by" epoch <1>'
    assert "display:none" in dark["style"]
    assert "display:none" not in light["style"]
    assert page.figcaption.get_text() == "A & B"


def test_the_same_data_gives_the_same_bytes() -> None:
    assert figures.themed(_line, alt="a").html == figures.themed(_line, alt="a").html


def test_drawing_leaves_no_trace_in_matplotlib() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.themed(_line, alt="a")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("alt", ["", "  "])
def test_a_figure_without_text_is_refused(alt: str) -> None:
    with pytest.raises(ValueError, match="alternative text"):
        figures.themed(_line, alt=alt)


def test_a_numeric_axis_without_label_is_refused() -> None:
    def unlabelled(figure: Figure) -> None:
        figure.add_subplot().plot([0, 1], [2, 3])

    with pytest.raises(ValueError, match="axis has no label"):
        figures.themed(unlabelled, alt="a line")


def _ms(number: float, kind: str = "measured", unit: str = "ms") -> Value:
    return Value(number, unit, kind, "a source", interval=(number - 0.1, number + 0.2))


def _alt(shown: Html) -> str:
    return BeautifulSoup(shown._repr_html_(), "html.parser").img["alt"]


def test_bars_tell_their_data_in_words_and_may_lack_a_value() -> None:
    rows, said, ours = {"conv3": "3×3 convolution", "relu": "ReLU"}, {"conv3": _ms(4.3, "quoted")}, {"relu": _ms(2.06)}
    shown = figures.bars(rows, {"paper": said, "here": ours}, quantity="latency", digits=1, alt="Both are medians.")
    assert _alt(shown) == (
        "Bars of latency [ms], paper / here: 3×3 convolution 4.3 / none; ReLU none / 2.1. Both are medians."
    )
    assert len(_pictures(shown)) == 2
    figure = BeautifulSoup(shown._repr_html_(), "html.parser").figure
    assert figure["data-sources"] == "a source", "once, for the line below the figure"
    assert _alt(figures.bars(rows, {"here": ours}, quantity="latency")) == (
        "Bars of latency [ms], here: 3×3 convolution none; ReLU 2.06."
    )


def test_lines_tell_their_data_in_words() -> None:
    short = figures.lines({"ABPN": {2: _ms(5), 0: _ms(1)}}, x="conv-ReLU pairs", quantity="time", from_zero=True)
    assert _alt(short) == "Lines of time [ms] against conv-ReLU pairs: ABPN 1.00 at 0, 5.00 at 2."
    long = {step: _ms(min(step, 50), unit="dB") for step in range(1, 60)}
    shown = figures.lines({"a": long, "b": {step: long[step] for step in range(1, 20)}}, x="step", quantity="PSNR")
    assert _alt(shown) == (
        "Lines of PSNR [dB] against step: a from 1.00 at 1 to 50.00 at 59, at most 50.00 at 50; "
        "b from 1.00 at 1 to 19.00 at 19."
    )


def test_values_of_two_units_or_none_and_an_axis_without_a_name_are_refused() -> None:
    for values in ({"a": _ms(1), "b": _ms(1, unit="dB")}, {}):
        with pytest.raises(ValueError, match="of one unit"):
            figures.bars(["a", "b"], {"here": values}, quantity="latency")
    with pytest.raises(ValueError, match="a quantity"):
        figures.bars(["a"], {"here": {"a": _ms(1)}}, quantity="")
    with pytest.raises(ValueError, match="horizontal axis"):
        figures.lines({"here": {1: _ms(1)}}, x="", quantity="latency")


def test_a_grid_shows_the_very_pixels() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)
    shown = figures.image_grid([("LR", pixels), ("HR", pixels[::-1])], alt="noise", zoom=3)
    first, second = _pictures(shown)
    assert np.array_equal(np.asarray(first), pixels)
    assert np.array_equal(np.asarray(second), pixels[::-1])
    page = BeautifulSoup(shown._repr_html_(), "html.parser")
    assert [image["alt"] for image in page.find_all("img")] == ["noise: LR", "noise: HR"]
    assert page.img["width"] == "60"


def test_pictures_of_one_place_are_marked_for_the_divider() -> None:
    pixels = [(label, np.zeros((4, 4, 3), np.uint8)) for label in ("bicubic", "ABPN", "HR")]
    for divided in (True, False):
        page = BeautifulSoup(figures.image_grid(pixels, alt="black squares", divided=divided).html, "html.parser")
        assert (page.select_one("figure.compared > .image-grid") is not None) == divided


def test_a_grid_of_floats_is_refused() -> None:
    with pytest.raises(ValueError, match="float64"):
        figures.image_grid([("LR", np.zeros((4, 4, 3)))], alt="black")  # type: ignore[list-item]
