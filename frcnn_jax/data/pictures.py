"""Bare pictures for prediction: found, read, and put on canvases. No ground truth."""

import glob
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from frcnn_jax import config
from frcnn_jax.data import batching, loader, transforms, video, views
from frcnn_jax.data.augment import Drawn
from frcnn_jax.data.views import Looks, View

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LIST = "-"  # among the names: more of them on standard input


def find(names: Sequence[str], lines: Iterable[str] = ()) -> list[Path]:
    """Pictures and videos by name, in folders (not deeper) and by pattern, in order.

    "-" stands for `lines`, a path each; those are taken as they are, whether they exist
    shows when they are read. In a pattern `**` goes through folders, and without an
    ending of its own it gives files that end like pictures or videos. Errors: nothing
    named, a path that does not exist (the nearest name is given), a folder, pattern or
    list without pictures.
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
    inside = sorted(filter(_known, folder.iterdir()))
    if not inside:
        below = [p for p in sorted(folder.glob("*/")) if any(map(_known, p.iterdir()))]
        hint = f"; there are some in {', '.join(map(str, below[:5]))}" if below else ""
        raise FileNotFoundError(
            f"no pictures in {folder} (looked for"
            f" {', '.join(SUFFIXES + video.SUFFIXES)}){hint}"
        )
    return inside


def _known(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES or video.is_video(path)


def _matching(pattern: str) -> list[Path]:
    # A pattern that ends like data/*.gif says itself what it wants.
    ending = Path(pattern).suffix
    any_file = ending and not glob.has_magic(ending)
    matches = map(Path, glob.glob(pattern, recursive=True))
    files = sorted(path for path in matches if path.is_file())
    found = [p for p in files if any_file or _known(p)]
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
    """Where a drawing of each goes: folder/<name>.jpg, of a video <name>.mp4.

    Errors: a drawing that would replace one of the pictures.
    """
    endings = (".mp4" if video.is_video(path) else ".jpg" for path in paths)
    names = map(str.__add__, stems(paths), endings)
    places = [folder / name for name in names]
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
    pictures: Iterable[Path | np.ndarray],
    data: config.Data,
    looks: Looks,
    batch_size: int,
    on_bad: Callable[[int, transforms.BadImage], None],
) -> Batches:
    """Batches of arrays, keyed by the fields of `types.Batch`, and what each row shows.

    Pictures are files or uint8 RGB [H, W, 3], taken as they are needed. They are read
    ahead by `data.threads` threads and put on the smallest of `views.canvases` that
    holds them, or of `views.for_all` where none does; the last batch of each canvas is
    filled with images of id -1. `on_bad` is told the number of a file that cannot be
    read, and why.
    """
    canvases = views.canvases(data, looks), views.for_all(data, looks)
    waiting: dict[tuple[int, int], list[tuple[transforms.Sample, Row]]] = {}

    def load(number: int, picture: Path | np.ndarray):
        try:
            return _views(number, picture, data, looks)
        except transforms.BadImage as error:
            return error

    ahead = 1 if looks.tile else data.threads  # large pictures: not many at a time
    for number, found in enumerate(_ahead(pictures, load, data.threads, ahead)):
        if isinstance(found, transforms.BadImage):
            on_bad(number, found)
            continue
        for sample, row in found:
            canvas = _canvas(sample.image.shape[:2], *canvases)
            rows = waiting.setdefault(canvas, [])
            rows.append((sample, row))
            if len(rows) == batch_size:
                yield _batch(waiting.pop(canvas), canvas, batch_size)
    for canvas, rows in waiting.items():
        yield _batch(rows, canvas, batch_size)


def _ahead(items: Iterable, load: Callable, threads: int, ahead: int) -> Iterator:
    """load(0, item), load(1, item), ... in order, by threads before they are needed."""
    cv2.setNumThreads(1)  # our threads each take a picture; OpenCV's would compete
    waiting: deque = deque()
    with ThreadPoolExecutor(max(1, min(threads, ahead))) as pool:
        try:
            for number, item in enumerate(items):
                waiting.append(pool.submit(load, number, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _views(number: int, picture: Path | np.ndarray, data: config.Data, looks: Looks):
    if isinstance(picture, np.ndarray):
        image = picture
    else:
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


def _canvas(hw: tuple[int, int], *choices: Sequence[tuple[int, int]]):
    """The smallest canvas that holds a view, of the first choice that has one."""
    for canvases in choices:
        fits = [c for c in canvases if hw[0] <= c[0] and hw[1] <= c[1]]
        if fits:
            return min(fits, key=math.prod)
    raise ValueError(f"a view of {hw} fits none of {choices}")


def _batch(rows, canvas, batch_size):
    samples = [sample for sample, _ in rows] + [None] * (batch_size - len(rows))
    arrays = batching.collate(samples, canvas, batching.ROW_MULTIPLE)
    return arrays, tuple(row for _, row in rows)
