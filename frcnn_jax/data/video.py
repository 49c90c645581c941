"""Videos: their frames, and new ones of frames, by ffmpeg where it is installed."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from frcnn_jax.data.transforms import BadImage

SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
QUIET = ("-hide_banner", "-loglevel", "error", "-nostdin", "-y")


class Video(NamedTuple):
    """A video file that can be read."""

    path: Path
    rate: Fraction  # frames a second
    # Of frames, about; None where the file does not tell.
    count: int | None  # type: ignore[assignment]


def is_video(path: Path) -> bool:
    """Whether a file's name ends like a video's."""
    return path.suffix.lower() in SUFFIXES


def probe(path: Path) -> Video:
    """What a file tells of itself.

    Errors: BadImage where ffmpeg is missing or finds no video in the file.
    """
    for program in ("ffmpeg", "ffprobe"):
        if shutil.which(program) is None:
            raise BadImage(f"{path} is a video: install ffmpeg to read it")
    asked = "stream=avg_frame_rate,r_frame_rate,nb_frames,duration:format=duration"
    words = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", asked]
    done = subprocess.run(
        [*words, "-of", "json", _file(path)], capture_output=True, text=True
    )
    told = json.loads(done.stdout or "{}")
    if done.returncode or not told.get("streams"):
        raise BadImage(f"{path}: {_last(done.stderr) or 'no video in it'}")
    stream, whole = told["streams"][0], told.get("format", {})
    rates = (stream.get(key, "0/0") for key in ("avg_frame_rate", "r_frame_rate"))
    rate = next(
        (Fraction(r) for r in rates if not r.endswith("/0") and r[0] != "0"), 25
    )
    seconds = float(stream.get("duration") or whole.get("duration") or 0)
    count = int(stream.get("nb_frames") or 0) or round(seconds * rate)
    return Video(path, Fraction(rate), count or None)


def frames(video: Video, every: int = 1) -> Iterator[np.ndarray]:
    """Frame 0, `every`, 2 * `every`, ... as uint8 RGB [H, W, 3], upright.

    At a constant rate: frame n is what the video shows after n / rate seconds. What
    cannot be decoded ends the frames with a line that says why. Errors: BadImage for a
    video without a single frame.
    """
    rate = ("-r", str(video.rate))
    words = ["ffmpeg", *QUIET, "-i", _file(video.path), "-map", "0:v:0", *rate]
    words += ["-f", "image2pipe", "-c:v", "ppm", "-"]
    count = 0
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        run = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=said)
        try:
            while (frame := _frame(run.stdout)) is not None:
                if count % every == 0:
                    yield frame
                count += 1
        finally:  # also where nobody wants the rest
            run.stdout.close()
            run.terminate()
            run.wait()
        said.seek(0)
        fault = _last(said.read())
    if not count:
        raise BadImage(f"{video.path}: {fault or 'no frame in it'}")
    if fault:
        print(f"{video.path}: after frame {count - 1}: {fault}", flush=True)


def _frame(pipe) -> np.ndarray | None:
    """The next picture of a stream of PPM files, None at its end."""
    if pipe.readline().strip() != b"P6":
        return None
    width, height = map(int, pipe.readline().split())
    pipe.readline()  # the largest value, 255
    pixels = pipe.read(width * height * 3)
    if len(pixels) < width * height * 3:
        return None
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


class Writer:
    """Writes frames of one size into a video; `close` ends it."""

    def __init__(self, path: Path, hw: tuple[int, int], rate: Fraction):
        """Start ffmpeg, which chooses the codec by the ending of `path`."""
        self.path, (height, width) = path, hw
        size = ("-s", f"{width}x{height}", "-r", str(rate))
        raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", *size, "-i", "-")
        even = ("-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2")  # as its colours need
        words = ["ffmpeg", *QUIET, *raw, *even, "-pix_fmt", "yuv420p", _file(path)]
        self._said = tempfile.TemporaryFile("w+", errors="replace")
        self._run = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=self._said)

    def write(self, frame: np.ndarray) -> None:
        """Add a frame, uint8 RGB [H, W, 3]. Errors: OSError that says why it cannot."""
        try:
            self._run.stdin.write(frame.tobytes())
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Finish the file. Errors: OSError that says why it could not be written."""
        try:
            self._run.stdin.close()
        except OSError:
            pass  # ffmpeg has gone, and said why
        code = self._run.wait()
        self._said.seek(0)
        fault = _last(self._said.read())
        self._said.close()
        if code:
            raise OSError(f"{self.path} cannot be written: {fault}")


def _file(path: Path) -> str:
    return f"file:{path}"  # whatever it is called, it is no address and no option


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else ""
