"""Bare pictures for prediction: found, read, and put on canvases. No ground truth."""

import glob
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from frcnn_jax import config
from frcnn_jax.data import batching, loader, transforms, views
from frcnn_jax.data.augment import Drawn
from frcnn_jax.data.views import Looks, View

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LIST = "-"  # among the names: more of them on standard input


def find(names: Sequence[str], lines: Iterable[str] = ()) -> list[Path]:
    """Pictures by name, in folders (not deeper) and by pattern, in order.

    "-" stands for `lines`, a path each; those are taken as they are, whether they exist
    shows when they are read. In a pattern `**` goes through folders, and without an
    ending of its own it gives files that end like pictures. Errors: nothing named, a
    path that does not exist (the nearest name is given), a folder, pattern or list
    without pictures.
    """
    if not names:
        raise ValueError("name one or more images or folders to predict on")
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if name == LIST:
            found += _listed(lines)
        elif path.is_dir():
            found += _inside(path)
        elif path.exists():
            found.append(path)
        elif glob.has_magic(name):
            found += _matching(name)
        else:
            raise FileNotFoundError(f"{path} does not exist{_nearest(path)}")
    return found


def _listed(lines: Iterable[str]) -> list[Path]:
    paths = [Path(line.strip()) for line in lines if line.strip()]
    if not paths:
        raise ValueError(
            f"{LIST} reads a list of pictures, a path on each line, from standard"
            " input, and there was none"
        )
    return paths


def _inside(folder: Path) -> list[Path]:
    inside = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not inside:
        raise FileNotFoundError(
            f"no pictures in {folder} (looked for {', '.join(SUFFIXES)})"
        )
    return inside


def _matching(pattern: str) -> list[Path]:
    # A pattern that ends like data/*.gif says itself what it wants.
    ending = Path(pattern).suffix
    any_file = ending and not glob.has_magic(ending)
    matches = map(Path, glob.glob(pattern, recursive=True))
    files = sorted(path for path in matches if path.is_file())
    found = [p for p in files if any_file or p.suffix.lower() in SUFFIXES]
    if not found:
        raise FileNotFoundError(f"no picture matches {pattern}")
    return found


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    names = [p.name for p in path.parent.iterdir()]
    near = get_close_matches(path.name, names, 1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def stems(paths: Sequence[Path]) -> list[str]:
    """Names for what is made of each picture, without ending.

    Pictures that share a name (a.png, b/a.jpg) are all numbered.
    """
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [f"{number:04d}_{name}" for number, name in enumerate(names)]
    return names


def drawings(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Where a drawing of each picture goes: folder/<name>.jpg.

    Errors: a drawing that would replace one of the pictures.
    """
    places = [folder / f"{name}.jpg" for name in stems(paths)]
    lost = {p.resolve() for p in paths} & {p.resolve() for p in places}
    if lost:
        raise ValueError(f"{min(lost)} would be drawn over; choose another --out")
    return places


class Row(NamedTuple):
    """What one row of a batch shows."""

    number: int  # of the picture
    place: int  # in `views`
    views: tuple[View, ...]  # all of this picture
    hw: tuple[int, int]  # height and width of the picture


Batches = Iterator[tuple[dict[str, np.ndarray], tuple[Row, ...]]]


def batches(
    pictures: Sequence[Path | np.ndarray],
    data: config.Data,
    looks: Looks,
    batch_size: int,
    on_bad: Callable[[int, transforms.BadImage], None],
) -> Batches:
    """Batches of arrays, keyed by the fields of `types.Batch`, and what each row shows.

    Pictures are files or uint8 RGB [H, W, 3]. They are read ahead by `data.threads`
    threads and put on the smallest of `views.canvases` that holds them; the last batch
    of each canvas is filled with images of id -1. `on_bad` is told the number of a file
    that cannot be read, and why. Errors: a view that fits no canvas.
    """
    canvases = views.canvases(data, looks)
    waiting: dict[int, list[tuple[transforms.Sample, Row]]] = {}

    def load(number: int) -> list[tuple[transforms.Sample, Row]] | transforms.BadImage:
        try:
            return _views(number, pictures[number], data, looks)
        except transforms.BadImage as error:
            return error

    ahead = 1 if looks.tile else data.threads  # large pictures: not many at a time
    for number, found in enumerate(_ahead(len(pictures), load, data.threads, ahead)):
        if isinstance(found, transforms.BadImage):
            on_bad(number, found)
            continue
        for sample, row in found:
            which = _canvas(sample, canvases, data)
            rows = waiting.setdefault(which, [])
            rows.append((sample, row))
            if len(rows) == batch_size:
                yield _batch(waiting.pop(which), canvases[which], batch_size)
    for which, rows in waiting.items():
        yield _batch(rows, canvases[which], batch_size)


def _ahead(count: int, load: Callable, threads: int, ahead: int) -> Iterator:
    """load(0), load(1), ... in order, computed by threads before they are asked for."""
    cv2.setNumThreads(1)  # our threads each take a picture; OpenCV's would compete
    waiting: deque = deque()
    with ThreadPoolExecutor(max(1, min(threads, ahead))) as pool:
        try:
            for number in range(count):
                waiting.append(pool.submit(load, number))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _views(number: int, picture: Path | np.ndarray, data: config.Data, looks: Looks):
    image = picture
    if not isinstance(picture, np.ndarray):
        image = transforms.decode(picture, data.max_image_pixels)
    hw = image.shape[:2]
    found = tuple(views.of_picture(hw, looks))
    samples = (
        loader.image_sample(
            views.cut(image, view), data, Drawn(view.short_side, view.flip)
        )
        for view in found
    )
    return [
        (sample._replace(image_id=number), Row(number, place, found, hw))
        for place, sample in enumerate(samples)
    ]


def _canvas(sample: transforms.Sample, canvases, data: config.Data) -> int:
    # Measured as it is: at its own short side a sample is not resized again.
    hw = sample.image.shape[:2]
    longest = max(data.max_side, *hw)
    return int(batching.assign([hw], canvases, short_side=min(hw), max_side=longest)[0])


def _batch(rows, canvas, batch_size):
    samples = [sample for sample, _ in rows] + [None] * (batch_size - len(rows))
    arrays = batching.collate(samples, canvas, batching.ROW_MULTIPLE)
    return arrays, tuple(row for _, row in rows)
