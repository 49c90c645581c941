"""A sheet of what the network sees in training: augmented images with their boxes."""

from pathlib import Path

import numpy as np

from frcnn_jax import config, vis
from frcnn_jax.data import loader, sources

COLUMNS = 4


def sheet(run: config.Run, count: int) -> tuple[np.ndarray, int]:
    """Draw the first `count` images of training; gives the sheet and the box count.

    They are those that `train.py` begins with, of the same seed. The canvas is shown
    with what stays empty of it.
    """
    data = sources.load(run.data, run.data.train, training=True)
    batches = loader.train_batches(data, run.data, batch_size=count, seed=run.seed)
    batch = next(batches)
    batches.close()
    panels, boxes = [], 0
    for image, row, labels in zip(
        batch["images"], batch["boxes"], batch["labels"], strict=True
    ):
        boxes += int((labels > 0).sum())
        panels.append(vis.draw(image, row, labels, class_names=data.class_names))
    return vis.contact_sheet(panels, min(COLUMNS, count)), boxes


def write(run: config.Run, count: int, place: Path) -> None:
    """Write the sheet and say so. Errors: ValueError for less than one image."""
    if count < 1:
        raise ValueError(f"--count is {count}; show one image or more")
    picture, boxes = sheet(run, count)
    place.parent.mkdir(parents=True, exist_ok=True)
    vis.save(picture, place)
    print(f"{place}: {count} images as training begins with them, {boxes} boxes")
