"""Films: made here, enlarged by the command, and read back with FFmpeg's libraries."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from abpn_lib import cli, models
from abpn_lib.files import DataError, InputError
from abpn_lib.tflite.abreast import Budget, in_order
from abpn_lib.tflite.upscaler import Upscaler

av = pytest.importorskip("av", reason="films need abpn-lib[video]")

from abpn_lib import film, results  # noqa: E402
from tools import films  # noqa: E402

MODEL = "abpn-int8-ptq"
SIZE = (48, 32)  # width and height
FONT = bytes(range(256))


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler(models.find(MODEL))


def colours(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A frame with a red corner at the top left, a blue half below, and a grey that tells its number."""
    pixels = np.full((size[1], size[0], 3), 40 + 4 * number % 160, np.uint8)
    pixels[: size[1] // 4, : size[0] // 4] = (220, 30, 30)
    pixels[size[1] // 2 :] = (30, 40, 200)
    return pixels


def make_film(
    path: Path, *, frames: int = 12, size: tuple[int, int] = SIZE, stamps: list[int] | None = None, sound: bool = False,
    codec: str = "libx264", pixels: str = "yuv420p", matrix: int = 6, full: bool = False, turn: int = 0,
    aspect: Fraction | None = None, subtitles: bool = False, **options: str,
) -> Path:
    """A film of 25 frames a second, or with time stamps in hundredths of a second."""
    with av.open(str(path), "w", options=options) as made:
        video = made.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = *size, pixels
        video.codec_context.time_base = Fraction(1, 100)
        video.codec_context.colorspace, video.codec_context.color_range = matrix, 2 if full else 1
        video.codec_context.gop_size = 4
        if aspect:
            video.codec_context.sample_aspect_ratio = aspect
        if turn:
            video.set_display_rotation(turn)
        made.metadata["title"] = "A test"
        tone = made.add_stream("aac", rate=8000, layout="mono") if sound else None
        text = written = None
        if subtitles:
            path.with_suffix(".srt").write_text("1\n00:00:00,000 --> 00:00:00,200\nHello\n")
            written = av.open(str(path.with_suffix(".srt")))
            text = made.add_stream_from_template(written.streams[0])
            made.add_attachment("plain.ttf", "application/x-truetype-font", FONT)
        if sound:
            made.set_chapters([{"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000),
                                "metadata": {"title": "First"}}])
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(colours(number, size), "rgb24").reformat(
                format=pixels, dst_colorspace=matrix, src_color_range=2, dst_color_range=2 if full else 1)
            frame.pts, frame.time_base = stamps[number] if stamps else 4 * number, Fraction(1, 100)
            made.mux(video.encode(frame))
            if tone:
                wave = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.float32), "fltp", "mono")
                wave.sample_rate, wave.pts = 8000, 320 * number
                made.mux(tone.encode(wave))
        made.mux(video.encode())
        if tone:
            made.mux(tone.encode())
        for packet in written.demux() if written else ():
            if packet.pts is not None:
                packet.stream = text
                made.mux(packet)
    return path


def read_film(path: Path) -> tuple[Any, list[np.ndarray], list[float]]:
    """The video stream's facts, the frames as RGB and their times."""
    with av.open(str(path)) as made:
        video = made.streams.video[0]
        found = [(frame, frame.time) for frame in made.decode(video)]
        first = found[0][0]
        facts = {"matrix": first.colorspace, "range": first.color_range, "size": (first.width, first.height),
                 "aspect": video.sample_aspect_ratio, "turn": first.rotation, "codec": video.codec_context.name,
                 "rate": video.average_rate, "metadata": made.metadata, "chapters": made.chapters(),
                 "kinds": sorted(stream.type for stream in made.streams)}
        pixels = [frame.reformat(format="rgb24", src_colorspace=frame.colorspace, src_color_range=frame.color_range,
                                 dst_color_range=2).to_ndarray() for frame, _ in found]
        return facts, pixels, [time for _, time in found]


def packets_of(path: Path, kind: str) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as made:
        stream = getattr(made.streams, kind)[0]
        return [(float(p.pts * p.time_base), bytes(p)) for p in made.demux(stream) if p.pts is not None]


def enlarge(upscaler: Upscaler, source: Path, **options: Any) -> tuple[Path, list[str]]:
    lines: list[str] = []
    suffix = options.pop("suffix", ".mp4")
    target = source.with_name(f"large-{source.stem}{suffix}")
    film.check(source, target, film.Options(**options))
    film.upscale_film(upscaler, source, target, film.Options(**options), threads=2, say=lines.append)
    return target, lines


def test_sound_subtitles_chapters_metadata_and_frames_are_kept(upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_film(tmp_path / "clip.mkv", sound=True, subtitles=True)
    target, lines = enlarge(upscaler, source, suffix=".mkv")
    facts, pixels, times = read_film(target)
    assert (facts["size"], facts["codec"], len(pixels), lines) == ((144, 96), "h264", 12, [])
    assert times == read_film(source)[2]
    assert next(value for key, value in facts["metadata"].items() if key.lower() == "title") == "A test"
    assert [chapter["metadata"]["title"] for chapter in facts["chapters"]] == ["First"]
    assert facts["kinds"] == ["attachment", "audio", "subtitle", "video"]
    with av.open(str(target)) as made:
        assert [bytes(stream.data) for stream in made.streams if stream.type == "attachment"] == [FONT]
    assert packets_of(target, "audio") == packets_of(source, "audio")
    assert packets_of(target, "subtitles")[0][1] == packets_of(source, "subtitles")[0][1]
    for number, frame in enumerate(pixels):
        np.testing.assert_allclose(frame[40, 90], colours(number)[13, 30], atol=6)
    kept, lines = enlarge(upscaler, source, suffix=".webm", codec="libvpx-vp9")
    assert read_film(kept)[0]["size"] == (144, 96)
    assert lines == [f"{kept}: does not take, and so leaves out: audio aac, subtitle subrip, attachment"]
    # Another encoder, and a quality that makes the file smaller.
    kept, _ = enlarge(upscaler, source, suffix=".mp4", codec="libx265", crf=40)
    assert read_film(kept)[0]["codec"] == "hevc"
    assert kept.stat().st_size < enlarge(upscaler, source, suffix=".mp4", codec="libx265", crf=10)[0].stat().st_size


@pytest.mark.parametrize(("matrix", "full"), [(1, False), (1, True), (5, False), (6, True)])
def test_colours_keep_their_matrix_and_range(upscaler: Upscaler, tmp_path: Path, matrix: int, full: bool) -> None:
    target, _ = enlarge(upscaler, make_film(tmp_path / "clip.mp4", frames=2, matrix=matrix, full=full))
    facts, pixels, _ = read_film(target)
    assert (facts["matrix"], facts["range"]) == (matrix, 2 if full else 1)
    np.testing.assert_allclose(pixels[0][10, 14], (220, 30, 30), atol=8)
    np.testing.assert_allclose(pixels[0][80, 100], (30, 40, 200), atol=8)


def test_what_a_film_does_not_say_of_its_colours_is_what_a_player_would_guess(
    upscaler: Upscaler, tmp_path: Path
) -> None:
    target, _ = enlarge(upscaler, make_film(tmp_path / "clip.mp4", frames=1, matrix=2))
    assert read_film(target)[0]["matrix"] == 6, "by the enlarged size it would be BT.709"


def test_variable_time_stamps_and_aspect_are_kept(upscaler: Upscaler, tmp_path: Path) -> None:
    stamps = [0, 3, 4, 20, 21, 50, 51, 52, 90]
    source = make_film(tmp_path / "clip.mkv", frames=9, stamps=stamps, aspect=Fraction(4, 3))
    target, _ = enlarge(upscaler, source, suffix=".mkv")
    facts, _, times = read_film(target)
    assert (facts["aspect"], times) == (Fraction(4, 3), [stamp / 100 for stamp in stamps])


@pytest.mark.parametrize("turn", [90, -90, 180])
def test_a_turned_film_comes_upright(upscaler: Upscaler, tmp_path: Path, turn: int) -> None:
    source = make_film(tmp_path / "clip.mp4", frames=2, turn=turn, aspect=Fraction(2, 1))
    assert read_film(source)[0]["turn"] in (turn, turn - 360)
    facts, pixels, _ = read_film(enlarge(upscaler, source)[0])
    assert (facts["turn"], facts["size"]) == (0, (144, 96) if turn == 180 else (96, 144))
    assert facts["aspect"] == (2 if turn == 180 else Fraction(1, 2))
    upright = np.rot90(colours(0), turn // 90)
    for y, x in ((3, 3), (3, -4), (-4, 3), (-4, -4)):
        np.testing.assert_allclose(pixels[0][3 * y, 3 * x], upright[y, x], atol=12)


def test_ten_bits_and_odd_sizes(upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_film(tmp_path / "ten.mkv", frames=2, codec="ffv1", pixels="yuv420p10le")
    target, lines = enlarge(upscaler, source)
    assert lines == [f"{source}: 10 bits become 8"]
    np.testing.assert_allclose(read_film(target)[1][0][10, 14], (220, 30, 30), atol=8)
    odd = make_film(tmp_path / "odd.mkv", frames=2, codec="ffv1", pixels="yuv444p", size=(47, 31))
    assert read_film(enlarge(upscaler, odd)[0])[0]["size"] == (140, 92), "three times, less one for the colours"


def test_a_part_starts_at_nought(upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_film(tmp_path / "clip.mp4", frames=50, sound=True)
    target, _ = enlarge(upscaler, source, start=1.0, duration=0.4)
    _, pixels, times = read_film(target)
    np.testing.assert_allclose(times, np.arange(10) / 25, atol=1e-6)
    np.testing.assert_allclose(pixels[0][40, 90], colours(25)[13, 30], atol=6)
    sound = [time for time, _ in packets_of(target, "audio")]
    assert 0 <= sound[0] < 0.13 < sound[-1] < 0.4
    with pytest.raises(InputError, match="no frame in the part"):
        enlarge(upscaler, source, start=99.0)


def test_a_film_that_breaks_off_gives_what_came_before(upscaler: Upscaler, tmp_path: Path) -> None:
    for name, options in (("clip.mkv", {}), ("clip.mp4", {"movflags": "faststart"})):
        content = make_film(tmp_path / name, frames=100, **options).read_bytes()
        source = tmp_path / f"cut-{name}"
        source.write_bytes(content[: len(content) // 2])
        with pytest.raises(DataError, match=r"cut-.* breaks off after .* holds the \d+ frames before") as it:
            enlarge(upscaler, source)
        assert "\n" not in str(it.value)
        assert 0 < len(read_film(tmp_path / "large-cut-clip.mp4")[1]) < 100
        (tmp_path / "large-cut-clip.mp4").unlink()


def test_bad_input_is_refused_and_leaves_nothing(upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_film(tmp_path / "clip.mp4", frames=3)
    (tmp_path / "cut.mp4").write_bytes(source.read_bytes()[:300])
    (tmp_path / "text.mp4").write_text("no film")
    for name, options, mentions in (
        ("text.mp4", {}, "not a film"), ("cut.mp4", {}, "not a film"), ("none.mp4", {}, "no such file"),
        ("clip.mp4", {"suffix": ".xyz"}, r"\.xyz: the extension is none of \.mp4"),
        ("clip.mp4", {"codec": "nosuch"}, "nosuch"), ("clip.mp4", {"codec": "aac"}, "--codec aac"),
        ("clip.mp4", {"suffix": ".webm"}, "does not take libx264"), ("clip.mp4", {"start": -1.0}, "--start"),
    ):
        with pytest.raises(InputError, match=mentions) as caught:
            enlarge(upscaler, tmp_path / name, **options)
        assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "cut.mp4", "text.mp4"}


def test_the_bits_do_not_depend_on_the_threads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_film(tmp_path / "clip.mp4", sound=True)
    for threads in ("1", "3"):
        words = ["upscale", str(source), "-o", str(tmp_path / f"{threads}.mp4"), "--model", MODEL, "--threads", threads]
        assert cli.main(words) == 0
    assert (tmp_path / "1.mp4").read_bytes() == (tmp_path / "3.mp4").read_bytes()
    assert capsys.readouterr().out.startswith("12 frames in ")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("keep", [True, False])
def test_an_interrupt_leaves_a_playable_film_or_none(tmp_path: Path, keep: bool) -> None:
    source, target = make_film(tmp_path / "clip.mp4", frames=1500, size=(320, 180), sound=True), tmp_path / "large.mp4"
    command = [sys.executable, "-m", "abpn_lib.cli", "upscale", str(source), "-o", str(target), "--model", MODEL]
    # A process in the background inherits that interrupts are ignored.
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    options = ["--keep-part"] if keep else []
    running = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    said = ""
    while not re.search(r" [1-9]\d+/1500", said):
        assert running.poll() is None
        said += running.stderr.read(20)  # type: ignore[union-attr]
    os.kill(running.pid, signal.SIGINT)
    said += running.communicate()[1]
    assert (running.returncode, said.splitlines()[-1]) == (130, "abpn: interrupted")
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", *(["large.mp4"] if keep else [])}
    if keep:
        count = len(read_film(target)[1])
        assert f"holds the {count} frames before the interrupt" in said
        assert 0 < count < 1500


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_animations_stay_animated(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.fromarray(colours(9 * number)) for number in range(4)]
    source, target = tmp_path / f"a{suffix}", tmp_path / f"large{suffix}"
    exact = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(source, save_all=True, append_images=frames[1:], duration=[50, 100, 150, 200], loop=3, **exact)
    assert cli.main(["upscale", str(source), "-o", str(target), "--model", MODEL]) == 0
    with Image.open(target) as made:
        assert (made.size, made.n_frames, made.info["loop"]) == ((144, 96), 4, 3)
        each = ImageSequence.Iterator(made)
        shown = [(frame.convert("RGB").getpixel((90, 40)), frame.info["duration"]) for frame in each]
    assert [duration for _, duration in shown] == [50, 100, 150, 200]
    for number, (pixel, _) in enumerate(shown):
        np.testing.assert_allclose(pixel, colours(9 * number)[13, 30], atol=8)
    assert cli.main(["upscale", str(source), "-o", str(tmp_path / "first.bmp"), "--model", MODEL]) == 0
    assert Image.open(tmp_path / "first.bmp").size == (144, 96)


def test_work_is_done_side_by_side_in_order_and_in_bounded_memory() -> None:
    read: list[int] = []

    def items() -> Any:
        for number in range(100):
            read.append(number)
            yield number

    made = in_order(lambda number: number * 2, items(), 3)
    assert [next(made) for _ in range(5)] == [0, 2, 4, 6, 8]
    made.close()
    assert len(read) <= 5 + 3 * 3 + 4

    def breaking(raised: Callable[[int], int]) -> Any:
        yield 1
        yield raised(0)

    found = in_order(lambda number: number, breaking(lambda zero: 1 // zero), 2)
    assert next(found) == 1
    with pytest.raises(ZeroDivisionError):
        next(found)
    late = in_order(lambda number: 1 // number, [1, 0, 1], 2)
    assert next(late) == 1
    with pytest.raises(ZeroDivisionError):
        next(late)


def test_a_budget_lets_in_what_fits_and_one_that_never_fits_alone() -> None:
    budget, most, held = Budget(10), 0, 0

    def take(wanted: int) -> int:
        nonlocal most, held
        with budget.take(wanted):
            held += wanted
            most = max(most, held)
            time.sleep(0.002)
            held -= wanted
        return wanted

    assert list(in_order(take, [4, 4, 4, 99, 4, 4], 4)) == [4, 4, 4, 99, 4, 4]
    assert most == 99 or most <= 10


def test_the_stages_of_a_film_are_timed_beside_the_whole() -> None:
    made = films.records(results.Context.here(""), size="48x32", threads=1, frames=3, rounds=1)
    rates = {record.columns["stage"]: record.value for record in made if record.quantity == "film-rate"}
    assert set(rates) == {*films.STAGES, "whole", "whole-one-core", "folder", "folder-one-core"}
    ratios = {record.columns["beside"]: record.value for record in made if record.quantity == "film-ratio"}
    slowest = min(films.STAGES, key=rates.__getitem__)
    assert ratios[slowest] == pytest.approx(rates["whole"] / rates[slowest])
    for stage in ("whole", "folder"):
        assert ratios[f"{stage}-one-core"] == pytest.approx(rates[stage] / rates[f"{stage}-one-core"])
    assert ratios["cpu-time"] > 0


def test_the_page_shows_the_recorded_times() -> None:
    page = (Path(__file__).parent.parent / "book" / "films.md").read_text()
    shown = [record for record in results.recorded() if record.quantity == "film-cpu"]
    assert shown
    assert all(f" {record.value:.1f} |" in page for record in shown)
    assert all(f"at a load of {record.columns['load']} on" in page for record in shown)
