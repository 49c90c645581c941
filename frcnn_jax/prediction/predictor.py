"""One trained model that is called with pictures."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import jax
import numpy as np

from frcnn_jax import build, cli, labels, runs
from frcnn_jax.config import Run
from frcnn_jax.convert import locate
from frcnn_jax.data import pictures, views
from frcnn_jax.data import video as films
from frcnn_jax.data.transforms import BadImage
from frcnn_jax.prediction import merge
from frcnn_jax.prediction.found import Found, pixels
from frcnn_jax.training import distributed, step
from frcnn_jax.training.checkpoint import LATEST

SCORE = 0.5  # detections below are not worth showing
OVERLAP = 0.2  # of neighbouring tiles, as a share of their side


@dataclass
class Times:
    """Where the seconds of one pass over pictures went."""

    total: float = 0.0  # without `compiling`
    waiting: float = 0.0  # for pictures to be read, while nothing was computed
    compiling: float = 0.0  # and tracing, once for each canvas and batch size

    def __add__(self, other: "Times") -> "Times":
        """Those of two passes."""
        return Times(*map(sum, zip(astuple(self), astuple(other), strict=True)))


class Predictor:
    """A trained detector: `Predictor("runs/demo")("photo.jpg").xyxy`."""

    def __init__(
        self,
        source: str | Path | runs.Trained,
        *,
        config: str | Path | Run | None = None,
        checkpoint: str = LATEST,
        score: float = SCORE,
        classes: Sequence[str] = (),
        tta: bool = False,
        tile: int = 0,
        overlap: float = OVERLAP,
    ):
        """Load a model onto the first device.

        `source` is the folder of a run, a weights file, the name of published weights
        ("mmdet:r50_fpn_1x"), of a repository ("hf:OWNER/NAME"), or what `runs.trained`
        gave. `config`, a file or a Run, is for weights that do not carry theirs;
        `checkpoint` of a folder is "latest" or "best". Detections below `score`, or of
        none of the `classes` named (() = all), are left out. `tta`, `tile` and
        `overlap` as in `views.chosen`: what is seen of a picture beside the whole of
        it.

        Errors: FileNotFoundError for a source that does not exist, ValueError for an
        unknown class (the nearest is given), weights without configuration or a tile
        that is too small.
        """
        if not isinstance(source, runs.Trained):
            source = _loaded(source, config, checkpoint)
        self.run, self.source, self.score = source.run, source.source, score
        self.labels = source.labels or labels.guessed(source.run)
        self.times = Times()
        self._wanted = numbers(classes, self.class_names, source.source)
        self._mesh = distributed.make_mesh(1)
        self._predict = step.make_predict_step(
            build.detector(source.run.model), self._mesh
        )
        self._variables = distributed.replicate(source.variables, self._mesh)
        self._looks = views.chosen(source.run.data, tta=tta, tile=tile, overlap=overlap)
        self._compiled: set[tuple[int, ...]] = set()

    def __repr__(self) -> str:
        """Say which model it is."""
        return f"Predictor({self.source}: {len(self.class_names)} classes)"

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes of the model are called, label 1 first."""
        return self.labels.class_names

    @property
    def canvases(self) -> tuple[tuple[int, int], ...]:
        """Heights and widths of the canvases, a program each."""
        return views.canvases(self.run.data, self._looks)

    def __call__(self, images: Any) -> Found | list[Found]:
        """Find objects on a picture, or on each of a list of them.

        A picture is a path or an array, uint8 RGB [H, W, 3] (what numpy makes one of,
        such as a PIL image, will do); a list may mix both, and gives a list in its
        order. Errors: BadImage that names the file that cannot be read, ValueError for
        an array that is no picture.
        """
        several = isinstance(images, list | tuple) or np.ndim(images) == 4
        given = list(images) if several else [images]
        given = [Path(i) if isinstance(i, str | Path) else pixels(i) for i in given]
        found: dict[int, Found] = {}
        # Powers of two, so that lists of many lengths do not compile as many programs.
        count = 1 << max(len(given) - 1, 0).bit_length()
        for number, one in self.stream(given, self.batch_size(count)):
            if isinstance(one, BadImage):
                raise one
            found[number] = one
        in_order = [found[number] for number in range(len(given))]
        return in_order if several else in_order[0]

    def batch_size(self, pictures: int) -> int:
        """How many views to compute at a time where there are so many pictures."""
        most, views_of_each = self.run.eval.batch_size, self._looks.per_part
        # How many tiles there will be, only the pictures tell.
        return most if self._looks.tile else min(most, pictures * views_of_each)

    def stream(
        self, images: Iterable[Path | np.ndarray], batch_size: int
    ) -> Iterator[tuple[int, Found | BadImage]]:
        """Yield (number, detections) of many pictures, as they are done.

        Pictures of one canvas are computed together, so numbers come out of order; a
        file that cannot be read gives its error. While a batch is computed the next
        ones are read and the one before is handed out. `times` tells of this pass.
        """
        self.times, begin = Times(), time.perf_counter()
        # Of pictures not yet seen in all views.
        parts: dict[int, list[merge.Part]] = {}
        bad: list[tuple[int, BadImage]] = []
        batches = pictures.batches(
            images,
            self.run.data,
            self._looks,
            batch_size,
            lambda number, error: bad.append((number, error)),
        )
        running: Any = None
        more = True
        while more:
            asked = time.perf_counter()
            batch = next(batches, None)
            if running is None or running[0].scores.is_ready():
                self.times.waiting += time.perf_counter() - asked
            more, started = batch is not None, batch and self._start(*batch)
            if running is not None:
                found, rows = running
                yield from self._finish(found, rows, parts)
            yield from bad
            bad.clear()
            running = started
        total = time.perf_counter() - begin
        self.times.total = total - self.times.compiling

    def video(
        self, path: str | Path, *, every: int = 1
    ) -> Iterator[tuple[int, np.ndarray, Found]]:
        """Yield (frame number, frame, detections) of a video, in order.

        Of frames 0, `every`, 2 * `every` and so on; ffmpeg has to be installed. Frames
        are uint8 RGB [H, W, 3]. Errors: BadImage for a file that is no video.
        """
        yield from self.frames(films.probe(Path(path)), every)

    def frames(
        self, film: films.Video, every: int = 1
    ) -> Iterator[tuple[int, np.ndarray, Found]]:
        """Do as `video` with one that was looked at before."""
        waiting: dict[int, np.ndarray] = {}  # for what is found on them

        def read():
            for number, frame in enumerate(films.frames(film, every)):
                waiting[number] = frame
                yield frame

        done: dict[int, Any] = {}
        following = 0
        for number, found in self.stream(read(), self.batch_size(film.count or 2**30)):
            done[number] = found
            while following in done:
                yield following * every, waiting.pop(following), done.pop(following)
                following += 1

    def _start(self, arrays: dict[str, np.ndarray], rows: tuple[pictures.Row, ...]):
        """Send a batch to the device, which computes on its own from then on."""
        shape, begin = arrays["images"].shape, time.perf_counter()
        batch = distributed.to_batch(arrays, self._mesh)
        found = self._predict(self._variables, batch)
        if shape not in self._compiled:  # the call came back once it was compiled
            self._compiled.add(shape)
            self.times.compiling += time.perf_counter() - begin
        return found, rows

    def _finish(
        self,
        found,
        rows: tuple[pictures.Row, ...],
        parts: dict[int, list[merge.Part]],
    ):
        """Wait for a batch and yield the pictures that are seen in all their views."""
        boxes, scores, numbers = jax.tree.map(np.asarray, tuple(found))
        for i, row in enumerate(rows):
            real = numbers[i] > 0
            part = merge.Part(
                row.views[row.place], boxes[i][real], scores[i][real], numbers[i][real]
            )
            seen = parts.setdefault(row.number, [])
            seen.append(part)
            if len(seen) == len(row.views):
                yield row.number, self._together(parts.pop(row.number), row.hw)

    def _together(self, parts: list[merge.Part], hw: tuple[int, int]) -> Found:
        """What the views of one picture show, as far as it is wanted."""
        roi = self.run.model.roi
        rows = merge.merged(parts, hw, iou=roi.nms_iou, most=roi.max_detections)
        found = Found(*rows, self.class_names, hw)
        kept = found.scores >= self.score
        if self._wanted is not None:
            kept &= np.isin(found.labels, self._wanted)
        return found.where(kept)


def numbers(
    classes: Sequence[str], known: Sequence[str], source: str
) -> np.ndarray | None:
    """The labels of classes by name; None for all.

    Errors: ValueError for one that `source` does not know, with the nearest.
    """
    for name in classes:
        if name not in known:
            near = get_close_matches(name, known, 1, cutoff=0.0)
            raise ValueError(
                f"classes: {name!r} is none of the {len(known)} classes of"
                f" {source}; did you mean {near[0]!r}?"
            )
    return np.array([known.index(c) + 1 for c in classes]) if classes else None


def _loaded(
    source: str | Path, config: str | Path | Run | None, which: str
) -> runs.Trained:
    """The model in a folder, in a file or of a name."""
    place = Path(source)
    if not place.exists() and not locate.is_name(source):
        raise FileNotFoundError(
            f"{source} does not exist: name the folder of a run, a weights file,"
            " published weights as in mmdet:r50_fpn_1x, or hf:OWNER/NAME"
        )
    folder, weights = (str(source), None) if place.is_dir() else (None, str(source))
    run = cli.run_of(str(config)) if isinstance(config, str | Path) else config
    run = cli.checked(runs.chosen(run, folder, weights))
    return runs.trained(run, folder, weights, which)
