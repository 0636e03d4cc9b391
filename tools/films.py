"""How many frames a second a film is enlarged at, and how close that comes to the slowest of its stages alone.

A film is made of a photograph that moves, 640x360. Its stages, each alone, and the whole of it are timed in turn,
round by round; so are the whole and a folder of its frames on one core and on all. The machine's load stands in every
record: where others run beside, the ratios of a round tell more than the rates, and CPU times more than both.

``python -m tools.films`` writes ``abpn_lib/records/films.json``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import skimage.data

from abpn_lib import cli, film, models, results
from abpn_lib.files import sha256
from abpn_lib.results import Context, Record
from abpn_lib.tflite.abreast import in_order
from abpn_lib.tflite.images import pairs, upscale_files
from abpn_lib.tflite.upscaler import Upscaler
from abpn_lib.timing.rounds import measure, paired_ratio

MODEL = "abpn-long-int8-ptq"
STAGES = ("decode", "enlarge", "encode")
PATH = Path(results.__file__).parent / "records" / "films.json"


def make_film(path: Path, frames: int, size: tuple[int, int]) -> None:
    """A photograph that moves, as an H.264 film of 25 frames a second; `size` is width and height."""
    photograph = np.tile(skimage.data.astronaut(), (1 + size[1] // 512, 2 + size[0] // 512, 1))
    with av.open(str(path), "w") as made:
        video = made.add_stream("libx264", rate=25, options={"crf": "18"})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            seen = np.ascontiguousarray(photograph[: size[1], 3 * number : 3 * number + size[0]])
            made.mux(video.encode(av.VideoFrame.from_ndarray(seen, format="rgb24")))
        made.mux(video.encode())


def on_one_core(call: Callable[[], object]) -> Callable[[], None]:
    """The call, with the threads that it starts, on one core."""

    def run() -> None:
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        try:
            call()
        finally:
            os.sched_setaffinity(0, cores)

    return run


def calls(
    upscaler: Upscaler, source: Path, threads: int, frames: int
) -> dict[str, Callable[[], object]]:
    """What is timed, by name: the stages of a film alone, the whole, a folder of its frames; these on one core too."""
    folder, options = source.parent, film.Options()
    job = film._Job(upscaler, source, folder / "alone.mp4", options, threads, film.TILE, False, lambda line: None,
                    film._look(source, options), threading.Event())
    opened = av.open(str(source))
    given = list(opened.decode(video=0))
    shape = av.open(str(folder / "shape.mp4"), "w")
    encoder = film._encoder(shape, opened.streams.video[0], job)
    large = [film._enlarged(job, frame, encoder) for frame in given]
    for part in ("frames", "large"):
        (folder / part).mkdir()
    for number, frame in enumerate(given):
        frame.to_image().save(folder / "frames" / f"{number}.png")

    def decode() -> None:
        with av.open(str(source)) as read:
            deque(film._items(read, read.streams.video[0], {}, job), maxlen=0)

    def enlarge() -> None:
        deque(in_order(lambda frame: film._enlarged(job, frame, encoder), given, threads), maxlen=0)

    def encode() -> None:
        with av.open(str(folder / "encoded.mp4"), "w") as made:
            stream = film._encoder(made, opened.streams.video[0], job)
            for frame in large:
                frame.pict_type = av.video.frame.PictureType.NONE
                made.mux(stream.encode(frame))
            made.mux(stream.encode())

    def whole(count: int) -> Callable[[], object]:
        return lambda: film.upscale_film(upscaler, source, folder / "whole.mp4", threads=count)

    def images(count: int) -> Callable[[], object]:
        found = pairs(folder / "frames", folder / "large")
        return lambda: deque(upscale_files(upscaler, found, threads=count, tile=film.TILE), maxlen=0)

    return {"decode": decode, "enlarge": enlarge, "encode": encode, "whole": whole(threads),
            "whole-one-core": on_one_core(whole(1)), "folder": images(threads),
            "folder-one-core": on_one_core(images(1))}


def records(
    context: Context, *, model: str = MODEL, size: str = "640x360", threads: int = 2, frames: int = 50,
    rounds: int = 7,
) -> list[Record]:
    """The "film-rate" (frames/s) and "film-cpu" (ms a frame) of each stage and the whole, and paired ratios.

    "film-ratio" is the whole's rate over that of the slowest stage alone, over what its own CPU time allows so many
    cores ("cpu-time"), and over that on one core; and a folder's over that on one core.
    """
    width, height = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as scratch:
        source, path = Path(scratch) / "film.mp4", models.find(model)
        make_film(source, frames, (width, height))
        load = round(os.getloadavg()[0])
        timed = measure(calls(Upscaler(path), source, threads, frames), rounds=rounds, warmup=1)
    where: dict[str, Any] = {"size": size, "threads": threads, "load": load}
    common: dict[str, Any] = {"count": rounds, "model_sha256": sha256(path)}
    spread = "least and greatest round" if rounds < 6 else "95 % interval of the median, by order statistics"
    made = []
    for stage, times in timed.items():
        rate, span = 1000 * frames / times.median_ms, (1000 * frames / times.high_ms, 1000 * frames / times.low_ms)
        made.append(context.record("film-rate", model, rate, "frames/s", {**where, "stage": stage}, spread=span,
                                   spread_is=spread, **common))
        made.append(context.record("film-cpu", model, times.cpu_ms / frames, "ms", {**where, "stage": stage}, **common))
    slowest = max(STAGES, key=lambda stage: timed[stage].median_ms)
    compared = {**where, "stage": "whole", "beside": "cpu-time"}
    share = timed["whole"].cpu_ms / threads / timed["whole"].median_ms
    made.append(context.record("film-ratio", model, share, "", compared, **common))
    for stage, other in (("whole", slowest), ("whole", "whole-one-core"), ("folder", "folder-one-core")):
        value, *interval = paired_ratio(timed[other], timed[stage])
        made.append(context.record("film-ratio", model, value, "", {**where, "stage": stage, "beside": other},
                                   spread=(interval[0], interval[1]), spread_is=spread, **common))
    return made


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m tools.films", description=__doc__.splitlines()[0])
    top.add_argument("--model", default=MODEL, help="a name that `abpn models` lists")
    top.add_argument("--size", default="640x360", help="the film's width x height")
    top.add_argument("--threads", type=int, default=2, help="frames enlarged at once")
    top.add_argument("--frames", type=int, default=50, help="the film's length")
    top.add_argument("--rounds", type=int, default=7, help="interleaved rounds")
    top.add_argument("--out", type=Path, default=PATH, help="where the records go")
    top.set_defaults(run=_run)
    return top


def _run(options: argparse.Namespace) -> None:
    context = Context.here(options.command_line)
    made = records(context, model=options.model, size=options.size, threads=options.threads, frames=options.frames,
                   rounds=options.rounds)
    results.save(options.out, made)
    for record in made:
        stage, beside = record.get("stage"), record.get("beside")
        what = f"{stage} over {beside}" if beside else stage
        print(f"{record.quantity:10} {what:28} {record.value:8.2f} {record.unit}")


if __name__ == "__main__":
    sys.exit(cli.answer("python -m tools.films", parser, sys.argv[1:]))
