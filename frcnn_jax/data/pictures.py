"""Bare pictures for prediction: found, read, and put on canvases. No ground truth."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from frcnn_jax import config
from frcnn_jax.data import batching, loader, transforms

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def find(names: Sequence[str]) -> list[Path]:
    """Pictures named directly or lying in named folders (not deeper), in order.

    Errors: nothing named, a path that does not exist (the nearest name is given), a
    folder without pictures.
    """
    if not names:
        raise ValueError("name one or more images or folders to predict on")
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise FileNotFoundError(
                    f"no pictures in {path} (looked for {', '.join(SUFFIXES)})"
                )
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path} does not exist{_nearest(path)}")
    return found


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    names = [p.name for p in path.parent.iterdir()]
    near = get_close_matches(path.name, names, 1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def drawings(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Where a drawing of each picture goes: folder/<name>.jpg.

    Pictures that share a name (a.png, b/a.jpg) are all numbered. Errors: a drawing that
    would replace one of the pictures.
    """
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [f"{number:04d}_{name}" for number, name in enumerate(names)]
    places = [folder / f"{name}.jpg" for name in names]
    lost = {p.resolve() for p in paths} & {p.resolve() for p in places}
    if lost:
        raise ValueError(f"{min(lost)} would be drawn over; choose another --out")
    return places


def batches(
    paths: Sequence[Path], data: config.Data, batch_size: int
) -> Iterator[tuple[dict[str, np.ndarray], tuple[tuple[int, Path], ...]]]:
    """Batches of arrays with (number, path) of each real row.

    Canvases are `data.buckets`, or one per orientation as tight as full size allows, so
    at most two programs compile. Unreadable files are printed, counted and left out.
    """
    buckets = canvases(data)
    waiting: dict[int, list] = {i: [] for i in range(len(buckets))}
    bad = 0
    for number, path in enumerate(paths):
        try:
            sample = loader.load_image(path, data)._replace(image_id=number)
        except transforms.BadImage as error:
            print(f"skipped: {error}", flush=True)
            bad += 1
            continue
        bucket = _bucket(sample, buckets, data)
        waiting[bucket].append((sample, path))
        if len(waiting[bucket]) == batch_size:
            yield _batch(waiting[bucket], buckets[bucket], batch_size)
            waiting[bucket] = []
    for bucket, rows in waiting.items():
        if rows:
            yield _batch(rows, buckets[bucket], batch_size)
    if bad:
        print(f"{bad} of {len(paths)} files could not be read", flush=True)


def alone(image: np.ndarray, data: config.Data) -> dict[str, np.ndarray]:
    """Arrays of a batch of one decoded picture, on the canvas `batches` gives it."""
    sample, buckets = loader.image_sample(image, data), canvases(data)
    bucket = buckets[_bucket(sample, buckets, data)]
    return batching.collate([sample], bucket, batching.ROW_MULTIPLE)


def _bucket(sample, buckets, data) -> int:
    size = [sample.image.shape[:2]]
    longest, short = max(data.max_side, data.eval_short_side), min(size[0])
    return int(batching.assign(size, buckets, short_side=short, max_side=longest)[0])


def _batch(rows, bucket, batch_size):
    samples = [sample for sample, _ in rows] + [None] * (batch_size - len(rows))
    arrays = batching.collate(samples, bucket, batching.ROW_MULTIPLE)
    return arrays, tuple((sample.image_id, path) for sample, path in rows)


def canvases(data: config.Data) -> tuple[tuple[int, int], ...]:
    """Those of the configuration, or landscape and portrait for any picture."""
    if data.buckets:
        return data.buckets
    short, long = (
        -(-side // 32) * 32 for side in (data.eval_short_side, data.max_side)
    )
    return ((short, long), (long, short)) if short != long else ((short, long),)
