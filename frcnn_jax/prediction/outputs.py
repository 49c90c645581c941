"""What predict.py leaves in its folder, each kind a choice of `--save`.

- pictures: NAME.jpg, of a video NAME.mp4.
- coco: predictions.json, a list of COCO results, and images.json, what they refer to.
- yolo: yolo/NAME.txt, of a frame NAME_000123.txt, with lines of class (from 0), x, y,
  width, height as shares of the picture's sides, and score.
- csv: predictions.csv with file, frame, class, score, x1, y1, x2, y2 in pixels.

COCO results hold every detection, the others those from the score on.
`COCO("images.json").loadRes("predictions.json")` reads the results back. Numbers of the
classes in yolo/ are the lines of yolo_classes.txt. Names are those of `pictures.stems`.
"""

import csv
import json
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from frcnn_jax import vis
from frcnn_jax.data import pictures, transforms, video
from frcnn_jax.evaluation.results import to_results
from frcnn_jax.labels import Labels
from frcnn_jax.prediction.found import Found
from frcnn_jax.types import Detections

KINDS = ("pictures", "coco", "yolo", "csv")
COLUMNS = ("file", "frame", "class", "score", "x1", "y1", "x2", "y2")
DRAWING = 2  # threads; more would take turns at Pillow's lock


def checked(kinds: Sequence[str]) -> tuple[str, ...]:
    """The kinds, in the order of `KINDS`.

    Errors: ValueError for none, or for an unknown one with the nearest.
    """
    for kind in kinds:
        if kind not in KINDS:
            near = get_close_matches(kind, KINDS, 1, cutoff=0.0)[0]
            raise ValueError(
                f"--save: {kind!r} is none of {', '.join(KINDS)}; did you mean {near}?"
            )
    if not kinds:
        raise ValueError(f"--save: name one or more of {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in kinds)


class Outputs:
    """Writes detections as they come; leaving it completes the files."""

    def __init__(
        self,
        out: Path,
        kinds: Sequence[str],
        paths: Sequence[Path],
        labels: Labels,
        *,
        score: float,
        max_pixels: int,
    ):
        """Begin the files of these pictures and videos in `out`, a folder.

        Errors: ValueError for a drawing that would replace one of the pictures.
        """
        self.detections, self.all = 0, 0  # from the score on; of any score
        self._best = 0.0  # score
        self._out, self._kinds, self._paths, self._labels = out, kinds, paths, labels
        self._score, self._limit = score, max_pixels
        self._stems = pictures.stems(paths)
        self._places = pictures.drawings(paths, out) if "pictures" in kinds else []
        self._pool = ThreadPoolExecutor(DRAWING)
        self._drawing: deque[Future] = deque()
        self._film: video.Writer | None = None
        self._images: list[dict[str, Any]] = []
        self._open = ExitStack()
        self._table = self._results = None
        if "yolo" in kinds:
            (out / "yolo").mkdir(exist_ok=True)
            names = "".join(f"{name}\n" for name in labels.class_names)
            (out / "yolo_classes.txt").write_text(names)
        if "csv" in kinds:
            self._table = csv.writer(self._new("predictions.csv"))
            self._table.writerow(COLUMNS)
        if "coco" in kinds:
            self._results = self._new("predictions.json")

    def _new(self, name: str) -> TextIO:
        return self._open.enter_context(open(self._out / name, "w", newline=""))

    def __enter__(self) -> "Outputs":
        """Nothing to do."""
        return self

    def __exit__(self, *_) -> None:
        """Complete every file, of what was added so far."""
        self._pool.shutdown()
        if "coco" in self._kinds:
            self._results.write("\n]\n" if self.all else "[]\n")
            self._write_images()
        self._open.close()
        self.end_video()  # last, for it may fail

    def add(self, number: int, found: Found) -> Found:
        """Take the detections of a picture and give those from the score on.

        Errors: what drawing an earlier picture met.
        """
        shown = found.above(self._score)
        self._write(number, self._paths[number], self._stems[number], found, shown)
        if "pictures" in self._kinds:
            self._drawing.append(self._pool.submit(self._draw, number, shown))
            if len(self._drawing) > 2 * DRAWING:  # pictures being drawn need memory
                self._drawing.popleft().result()
        return shown

    def add_frame(
        self, number: int, frame: int, image: np.ndarray, found: Found, rate: Fraction
    ) -> Found:
        """Do the same with a frame of the video `number`, one after the other.

        `rate` is that of the frames that come, a second.
        """
        shown, name = found.above(self._score), f"{self._stems[number]}_{frame:06d}"
        key = len(self._paths) + len(self._images)  # no picture's
        self._write(key, self._paths[number], name, found, shown, frame)
        if "pictures" in self._kinds:
            if self._film is None:
                self._film = video.Writer(self._places[number], found.hw, rate)
            self._film.write(shown.draw(image))
        return shown

    def end_video(self) -> None:
        """Complete the drawn video. Errors: OSError where it could not be written."""
        if self._film is not None:
            film, self._film = self._film, None
            film.close()

    def _draw(self, number: int, found: Found) -> None:
        image = transforms.decode(self._paths[number], self._limit)
        vis.save(found.draw(image), self._places[number])

    def _write(
        self, key: int, path: Path, name: str, found: Found, shown: Found, frame=None
    ) -> None:
        """Append one picture to the files of text."""
        self.detections += len(shown)
        self._best = max(self._best, found.scores.max(initial=0.0))
        of = {"file_name": str(path)} | ({} if frame is None else {"frame": frame})
        if "yolo" in self._kinds:
            (self._out / "yolo" / f"{name}.txt").write_text(yolo_lines(shown))
        if "csv" in self._kinds:
            rows = zip(shown.names, shown.scores, shown.xyxy, strict=True)
            for kind, score, box in rows:
                corners = [f"{value:.2f}" for value in box]
                row = [path, of.get("frame", ""), kind, f"{score:.4f}", *corners]
                self._table.writerow(row)
        if "coco" in self._kinds:
            height, width = found.hw
            self._images.append({"id": key, **of, "height": height, "width": width})
            arrays: Any = found.xyxy[None], found.scores[None], found.labels[None]
            ids = self._labels.category_ids
            for result in to_results(Detections(*arrays), np.zeros(1, int), [key], ids):
                self._results.write(",\n" if self.all else "[\n")
                self._results.write(json.dumps({**result, **of}))
                self.all += 1

    def said(self) -> str:
        """Wait for the drawings and say what is where."""
        for drawing in self._drawing:
            drawing.result()
        places = [f"drawn into {self._out}"] if "pictures" in self._kinds else []
        if "csv" in self._kinds:
            places.append(f"in {self._out / 'predictions.csv'}")
        if "yolo" in self._kinds:
            places.append(f"in {self._out / 'yolo'}")
        shown = f"{self.detections} detections with score >= {self._score:g}"
        parts = [" ".join((shown, ", ".join(places)))] if places else []
        if "coco" in self._kinds:
            file = self._out / "predictions.json"
            parts.append(f"all {self.all} of any score are in {file}")
        if not self.detections and self._best > 0:
            parts.append(f"the highest score is {self._best:.2f}, see --score")
        return "; ".join(parts)

    def _write_images(self) -> None:
        """What the results refer to."""
        names, ids = self._labels
        pairs = zip(names, ids, strict=True)
        content = {
            "images": sorted(self._images, key=lambda image: image["id"]),
            "categories": [{"id": i, "name": n} for n, i in pairs if i is not None],
            "annotations": [],
        }
        json.dump(content, self._new("images.json"), indent=1)


def yolo_lines(found: Found) -> str:
    """A line for each detection: class from 0, centre, width, height, score.

    Lengths are shares of the picture's sides, 0..1.
    """
    height, width = found.hw
    corners = np.clip(found.xyxy, 0, (width, height, width, height))
    corners = corners / (width, height, width, height)
    centres, sides = (
        (corners[:, :2] + corners[:, 2:]) / 2,
        corners[:, 2:] - corners[:, :2],
    )
    rows = zip(found.labels, centres, sides, found.scores, strict=True)
    return "".join(
        f"{label - 1} {x:.6f} {y:.6f} {w:.6f} {h:.6f} {score:.4f}\n"
        for label, (x, y), (w, h), score in rows
    )
