"""Films through a super-resolution model: what FFmpeg reads, with time stamps, colours, sound and subtitles kept.

One thread reads and decodes, some enlarge, one encodes and writes (`abreast.in_order`), so that memory does not grow
with the film's length, and the rate is that of the slowest of the three. Frames go through the network as 8-bit RGB
and come back in the film's own matrix and range (BT.601 or 709, limited or full). Needs PyAV (extra ``video``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from abpn_lib.files import DataError, InputError, whole
from abpn_lib.tflite.abreast import in_order
from abpn_lib.tflite.interpreter import first_line
from abpn_lib.tflite.upscaler import TILE, Upscaler

try:
    import av
    from av.video.reformatter import ColorRange, Interpolation
except ImportError as missing:
    raise InputError("films need PyAV: install it with pip install 'abpn-lib[video]'") from missing

FORMATS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".ts": "mpegts",
}
"""Extension -> FFmpeg's name of the format, for the films that are written."""

_EXACT = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
_RGB, _UNSPECIFIED, _BT709, _BT601 = 0, 2, 1, 6  # of AVColorSpace: matrices
_LIMITED, _FULL = ColorRange.MPEG, ColorRange.JPEG

Item = tuple[Any, list[Any]]
"""A frame, or None, and the packets of other streams that come before it."""


@dataclass(frozen=True)
class Options:
    """How a film is written.

    `codec` is FFmpeg's name of an encoder, `crf` its quality (less is better; 18 is hard to tell from the source),
    `start` and `duration` seconds of the source, `keep_part` whether an interrupt leaves what is done so far.
    """

    codec: str = "libx264"
    crf: int = 18
    start: float = 0.0
    duration: float | None = None
    keep_part: bool = False


@dataclass(frozen=True)
class _Look:
    """What the first frame tells: size, quarter turns, colours; `total` is about how many frames there are, or None."""

    width: int
    height: int
    turns: int
    matrix: int
    full: bool
    total: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    """One enlargement: what `upscale_film` is given, and `stop`, which its thread is told by."""

    upscaler: Upscaler
    source: Path
    target: Path
    options: Options
    threads: int
    tile: int | None
    progress: bool
    say: Callable[[str], None]
    look: _Look
    stop: threading.Event


class _Broken(DataError):
    """A film that cannot be read any further."""


def upscale_film(
    upscaler: Upscaler, source: Path, target: Path, options: Options = Options(), *, threads: int = 1,
    tile: int | None = TILE, progress: bool = False, say: Callable[[str], None] = lambda line: None,
) -> tuple[int, float]:
    """Enlarge a film, `threads` frames at once; how many frames, and the seconds that it took.

    The upscaler works with one thread for each frame. `say` is told, in a line each, what cannot be kept.

    Raises `InputError` if the film cannot be read, or the format or encoder is not known or the two do not go
    together, and nothing is written; `DataError` if the film breaks off: what came before is written. After an
    interrupt (KeyboardInterrupt) the file is whole up to there, or not there.
    """
    look, stop = _look(source, options), threading.Event()
    job = _Job(upscaler, source, target, options, threads, tile, progress, say, look, stop)
    for note in look.notes:
        say(f"{source}: {note}")
    started, broken = time.perf_counter(), ""
    with whole(target) as scratch, ThreadPoolExecutor(1) as writer:
        # In a thread of its own, an interrupt cannot part a packet from the file that it belongs into.
        writing = writer.submit(_write, job, scratch)
        try:
            # A signal that another thread receives is seen here only when a wait ends.
            while wait([writing], 0.5).not_done:
                pass
            count, broken = writing.result()
        except KeyboardInterrupt:
            stop.set()
            count, _ = writing.result()
            if not options.keep_part or not count:
                raise
    if stop.is_set():
        say(f"{target}: holds the {count} frames before the interrupt")
        raise KeyboardInterrupt
    if broken:
        raise DataError(f"{source}: {broken}; {target} holds the {count} frames before that")
    return count, time.perf_counter() - started


def check(source: Path, target: Path, options: Options) -> None:
    """Raise `InputError` for what can be refused before any work: names, format, encoder, times."""
    if target.suffix.lower() not in FORMATS:
        raise InputError(f"{target}: the extension is none of {', '.join(FORMATS)} for films")
    if not source.is_file():
        raise InputError(f"{source}: {'a folder, not a film' if source.is_dir() else 'there is no such file'}")
    if target.exists() and source.samefile(target):
        raise InputError(f"{source} would be overwritten by its own enlargement: name another output")
    try:
        codec = av.Codec(options.codec, "w")
    except ValueError:
        codec = None
    if codec is None or codec.type != "video" or not codec.video_formats:
        raise InputError(f"--codec {options.codec}: not one of FFmpeg's video encoders, such as libx264 or libx265")
    if options.start < 0 or (options.duration is not None and options.duration <= 0):
        raise InputError("--start is at least 0 and --duration more than 0 seconds")


def _look(source: Path, options: Options) -> _Look:
    """Decode the first frame. Raises `InputError` if there is none."""
    try:
        with _opened(source) as film:
            video = film.streams.best("video")
            frame = next((frame for packet in film.demux(video) for frame in _decoded(packet)), None) if video else None
            if frame is None:
                raise InputError(f"{source}: holds no moving picture that can be read")
            seconds = options.duration or max((film.duration or 0) / av.time_base - options.start, 0)
            total = seconds * float(_rate(video)) or None
    except av.FFmpegError as error:
        raise InputError(f"{source}: not a film that can be read ({error.strerror})") from error
    bits = max(part.bits for part in frame.format.components)
    notes = [f"{bits} bits become 8"] if bits > 8 else []
    notes += ["interlaced, but enlarged as whole frames"] if frame.interlaced_frame else []
    large = frame.height >= 720 or frame.width >= 1280
    # What a film does not say, a player guesses by its size: the guess for the source is written into the result.
    matrix = frame.colorspace if frame.colorspace not in (_RGB, _UNSPECIFIED) else _BT709 if large else _BT601
    full = frame.color_range == _FULL or (not frame.format.is_rgb and frame.format.name.startswith("yuvj"))
    return _Look(frame.width, frame.height, frame.rotation // 90 % 4, matrix, full, total, tuple(notes))


def _opened(source: Path) -> Any:
    return av.open(str(source), metadata_errors="replace")


def _decoded(packet: Any) -> list[Any]:
    """A packet's frames; none of one that cannot be decoded, as at the start of a film that was cut."""
    with suppress(av.FFmpegError):
        return packet.decode()
    return []


def _rate(video: Any) -> Fraction:
    return video.average_rate or video.guessed_rate or Fraction(25)


def _write(job: _Job, scratch: Path) -> tuple[int, str]:
    """Write the film; the number of frames, and why it broke off, or ""."""
    count, broken, form = 0, "", FORMATS[job.target.suffix.lower()]
    with _opened(job.source) as film, av.open(str(scratch), "w", format=form) as made:
        video = film.streams.best("video")
        encoder, copies = _encoder(made, video, job), _copies(film, made, job)
        _set_chapters(film, made, job.options)

        def enlarge(item: Item) -> Item:
            frame, packets = item
            return frame and _enlarged(job, frame, encoder), packets

        # One more than asked for, or the others wait where a frame waits for its turn to be encoded.
        at_once = job.threads + (job.threads > 1)
        items = in_order(enlarge, _items(film, video, copies, job), at_once)
        total = job.look.total and round(job.look.total)
        with closing(items), tqdm(total=total, unit="frame", disable=not job.progress) as bar:
            try:
                for frame, packets in items:
                    if job.stop.is_set() and not job.options.keep_part:
                        return count, ""
                    for packet in packets:
                        packet.stream = copies[packet.stream.index]
                        made.mux(packet)
                    if frame:
                        made.mux(encoder.encode(frame))
                        count += 1
                        bar.update()
            except _Broken as error:
                broken = str(error)
        if not count and not job.stop.is_set():
            raise InputError(f"{job.source}: {broken or 'no frame in the part that is asked for'}")
        made.mux(encoder.encode())
    return count, broken


def _encoder(made: Any, video: Any, job: _Job) -> Any:
    """The stream of enlarged frames."""
    codec, look, source = av.Codec(job.options.codec, "w"), job.look, video.codec_context
    if not {codec.name, codec.canonical_name} & made.supported_codecs:
        raise InputError(f"{job.target}: this format does not take {codec.name}: name another --codec or extension")
    settings = {"crf": str(job.options.crf)}
    if codec.name in ("libx264", "libx265"):
        # Half of the default's time: writing must not hold up enlarging.
        settings["preset"] = "veryfast"
    stream = made.add_stream(codec.name, rate=_rate(video), options=settings)
    made_as, turned, ratio = stream.codec_context, look.turns % 2, video.sample_aspect_ratio
    names = [form.name for form in codec.video_formats or ()]
    stream.pix_fmt = "yuv420p" if "yuv420p" in names else names[0]
    sides = (look.height, look.width) if turned else (look.width, look.height)
    stream.width, stream.height = (side * job.upscaler.scale // 2 * 2 for side in sides)
    made_as.bit_rate, made_as.time_base = 0, video.time_base
    made_as.colorspace, made_as.color_range = look.matrix, _FULL if look.full else _LIMITED
    made_as.color_primaries, made_as.color_trc = source.color_primaries, source.color_trc
    if ratio:
        made_as.sample_aspect_ratio = 1 / ratio if turned else ratio
    stream.metadata.update(video.metadata)
    return stream


def _copies(film: Any, made: Any, job: _Job) -> dict[int, Any]:
    """The streams that are copied as they are, by the number of the source's; what cannot be is said."""
    made.metadata.update(film.metadata)
    copies, left = {}, []
    for stream in film.streams:
        codec = stream.codec_context.codec.canonical_name if stream.codec_context else ""
        if stream.type in ("audio", "subtitle") and codec in made.supported_codecs:
            copies[stream.index] = made.add_stream_from_template(stream)
            copies[stream.index].metadata.update(stream.metadata)
        elif stream.type == "attachment" and made.format.name == "matroska":  # fonts of subtitles
            made.add_attachment(stream.name, stream.mimetype, stream.data)
        elif stream.type in ("audio", "subtitle", "attachment"):
            left.append(f"{stream.type} {codec}".strip())
    if left:
        job.say(f"{job.target}: does not take, and so leaves out: {', '.join(left)}")
    return copies


def _set_chapters(film: Any, made: Any, options: Options) -> None:
    kept = []
    for chapter in film.chapters():
        base = chapter["time_base"]
        first, last = (round(chapter[key] - Fraction(options.start) / base) for key in ("start", "end"))
        if last > 0 and (options.duration is None or first * base < options.duration):
            kept.append({**chapter, "start": max(first, 0), "end": last})
    if kept:
        made.set_chapters(kept)


def _items(film: Any, video: Any, copies: dict[int, Any], job: _Job) -> Iterator[Item]:
    """The frames asked for, each with the copied packets before it; at last None with the rest.

    Raises `_Broken` where the film cannot be read any further, or is shorter than it says.
    """
    options, origin = job.options, (film.start_time or 0) / av.time_base
    first, end = float("-inf"), origin + options.start + (options.duration or float("inf"))
    if options.start:
        first = origin + options.start
        film.seek(int(first * av.time_base))
    packets: list[Any] = []
    reached, last, seen = origin, None, False
    streams = [video, *(film.streams[index] for index in copies)]
    try:
        for packet in film.demux(streams):
            if job.stop.is_set():
                break
            base, moved = packet.stream.time_base, round(options.start / packet.stream.time_base)
            if packet.pts is not None:
                reached = max(reached, float((packet.pts + (packet.duration or 0)) * base))
                if packet.pts * base > end + 1:  # other streams may lie so far behind
                    break
            if packet.stream is not video:
                if packet.dts is not None and packet.pts is not None and first <= packet.pts * base < end:
                    packet.pts, packet.dts = packet.pts - moved, packet.dts - moved
                    packets.append(packet)
                continue
            for frame in packet.decode() if seen else _decoded(packet):
                seen, length = True, frame.duration or round(1 / _rate(video) / base)
                if frame.pts is None:
                    frame.pts = 0 if last is None else last + moved + length
                if (frame.pts + length) * base <= first or frame.pts * base >= end:
                    continue
                frame.pts = max(frame.pts, round(first / base)) - moved if options.start else frame.pts
                if last is None or frame.pts > last:
                    yield frame, packets
                    packets, last = [], frame.pts
    except av.FFmpegError as error:
        yield None, packets
        raise _Broken(f"breaks off after {reached - origin:.1f} s ({first_line(error)})") from error
    yield None, packets
    # Only where the length stands in the file, and is not guessed from its size.
    missing = (film.duration or 0) / av.time_base - (reached - origin)
    if missing > 1 and options.duration is None and not job.stop.is_set() and film.format.name[:3] in ("mov", "mat"):
        raise _Broken(f"breaks off after {reached - origin:.1f} s, {missing:.1f} s before its end")


def _enlarged(job: _Job, frame: Any, encoder: Any) -> Any:
    """A frame in the encoder's size and colours, upright, with the time stamp that it had."""
    look, is_rgb = job.look, frame.format.is_rgb
    span = _FULL if look.full else _LIMITED
    lr = frame.reformat(
        width=look.width, height=look.height, format="rgb24", src_colorspace=look.matrix, interpolation=_EXACT,
        src_color_range=_FULL if is_rgb else span, dst_color_range=_FULL,
    ).to_ndarray()
    hr = job.upscaler.upscale(np.ascontiguousarray(np.rot90(lr, look.turns)), tile=job.tile)
    # Subsampled colour takes even sides alone.
    even = np.ascontiguousarray(hr[: encoder.height, : encoder.width])
    made = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(
        format=encoder.pix_fmt, dst_colorspace=look.matrix, interpolation=_EXACT, src_color_range=_FULL,
        dst_color_range=span,
    )
    made.pts, made.time_base, made.duration = frame.pts, frame.time_base, frame.duration
    return made
