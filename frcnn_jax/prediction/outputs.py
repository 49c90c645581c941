"""What predict.py leaves in its folder, each kind a choice of `--save`.

- pictures: NAME.jpg.
- coco: predictions.json, a list of COCO results, and images.json, what they refer to.
- yolo: yolo/NAME.txt with lines of class (from 0), x, y, width, height as shares of the
  picture's sides, and score.
- csv: predictions.csv with file, class, score, x1, y1, x2, y2 in pixels.

COCO results hold every detection, the others those from the score on.
`COCO("images.json").loadRes("predictions.json")` reads the results back. Numbers of the
classes in yolo/ are the lines of yolo_classes.txt. Names are those of `pictures.stems`.
"""

import csv
import json
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from frcnn_jax import vis
from frcnn_jax.data import pictures, transforms
from frcnn_jax.evaluation.results import to_results
from frcnn_jax.labels import Labels
from frcnn_jax.prediction.found import Found
from frcnn_jax.types import Detections

KINDS = ("pictures", "coco", "yolo", "csv")
COLUMNS = ("file", "class", "score", "x1", "y1", "x2", "y2")
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
    """Writes detections as they come, and the rest when it is closed."""

    def __init__(
        self,
        out: Path,
        kinds: Sequence[str],
        paths: Sequence[Path],
        *,
        score: float,
        max_pixels: int,
    ):
        """Plan the files of these pictures in the folder `out`, which exists.

        Errors: ValueError for a drawing that would replace one of the pictures.
        """
        self.out, self.kinds, self.paths, self.score = out, kinds, paths, score
        self.detections = 0  # from the score on
        self._limit = max_pixels
        self._stems = pictures.stems(paths)
        self._found: dict[int, Found] = {}
        self._places = pictures.drawings(paths, out) if "pictures" in kinds else []
        self._pool = ThreadPoolExecutor(DRAWING)
        self._drawing: deque[Future] = deque()
        if "yolo" in kinds:
            (out / "yolo").mkdir(exist_ok=True)

    def add(self, number: int, found: Found) -> Found:
        """Take the detections of a picture and give those from the score on.

        Drawn pictures and YOLO files are written from here on. Errors: what drawing an
        earlier picture met.
        """
        shown = found.above(self.score)
        self.detections += len(shown)
        self._found[number] = found
        if "yolo" in self.kinds:
            lines = yolo_lines(shown)
            (self.out / "yolo" / f"{self._stems[number]}.txt").write_text(lines)
        if "pictures" in self.kinds:
            self._drawing.append(self._pool.submit(self._draw, number, shown))
            if len(self._drawing) > 2 * DRAWING:  # pictures being drawn need memory
                self._drawing.popleft().result()
        return shown

    def _draw(self, number: int, found: Found) -> None:
        image = transforms.decode(self.paths[number], self._limit)
        vis.save(found.draw(image), self._places[number])

    def close(self, labels: Labels) -> str:
        """Write what remains and say what is where."""
        for drawing in self._drawing:
            drawing.result()
        self._pool.shutdown()
        places = [f"drawn into {self.out}"] if "pictures" in self.kinds else []
        if "csv" in self.kinds:
            self._write_csv()
            places.append(f"in {self.out / 'predictions.csv'}")
        if "yolo" in self.kinds:
            names = "".join(f"{name}\n" for name in labels.class_names)
            (self.out / "yolo_classes.txt").write_text(names)
            places.append(f"in {self.out / 'yolo'}")
        shown = f"{self.detections} detections with score >= {self.score:g}"
        parts = [" ".join((shown, ", ".join(places)))] if places else []
        if "coco" in self.kinds:
            count = self._write_coco(labels)
            parts.append(f"all {count} are in {self.out / 'predictions.json'}")
        return "; ".join(parts)

    def _write_csv(self) -> None:
        with open(self.out / "predictions.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for number in sorted(self._found):
                found = self._found[number].above(self.score)
                rows = zip(found.names, found.scores, found.xyxy, strict=True)
                for name, score, box in rows:
                    corners = [f"{value:.2f}" for value in box]
                    table.writerow([self.paths[number], name, f"{score:.4f}", *corners])

    def _write_coco(self, labels: Labels) -> int:
        results, images = [], []
        for number, found in sorted(self._found.items()):
            file = str(self.paths[number])
            height, width = found.hw
            sizes = {"height": height, "width": width}
            images.append({"id": number, "file_name": file, **sizes})
            rows = Detections(found.xyxy[None], found.scores[None], found.labels[None])
            made = to_results(rows, np.zeros(1, int), [number], labels.category_ids)
            results += [{**row, "file_name": file} for row in made]
        pairs = zip(labels.class_names, labels.category_ids, strict=True)
        content = {
            "images": images,
            "categories": [{"id": i, "name": n} for n, i in pairs if i is not None],
            "annotations": [],
        }
        for name, value in (("predictions", results), ("images", content)):
            (self.out / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")
        return len(results)


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
