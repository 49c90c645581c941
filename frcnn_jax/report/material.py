"""What a report tells of: a run's figures, data, settings, and its worst pictures."""

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from frcnn_jax import config, vis
from frcnn_jax.data import transforms
from frcnn_jax.data.records import Dataset
from frcnn_jax.evaluation import analysis, worst
from frcnn_jax.evaluation import results as rows_of
from frcnn_jax.training import about, log

SIDE = 480  # pixels of the longer side of a picture, half of what is drawn


class Shot(NamedTuple):
    """An image with ground truth and predictions side by side."""

    name: str
    errors: Mapping[str, int]  # by type
    picture: np.ndarray | None  # [H, W, 3] uint8; None = cannot be read


class Base(NamedTuple):
    """What the settings of a run are compared with."""

    name: str  # for people: "the defaults", a file's name
    run: config.Run


class Material(NamedTuple):
    """Everything on the page; what is None or empty is said to be missing."""

    title: str
    run: config.Run
    base: Base
    data: Sequence[Dataset]  # the scored split last
    history: Sequence[Mapping[str, Any]]  # lines of metrics.jsonl
    versions: Sequence[tuple[str, str, str | None]]  # name, here, of the training
    hardware: Sequence[tuple[str, str]]
    metrics: Mapping[str, Any] | None = None  # of score.evaluate
    found: Mapping[str, Any] | None = None  # of analysis.evaluate
    shots: Sequence[Shot] = ()


def base(given: tuple[str, config.Run] | None) -> Base:
    """Return what settings are compared with: the file given, or the defaults."""
    return Base("the defaults", config.Run()) if given is None else Base(*given)


def of_run(
    title: str,
    run: config.Run,
    base: Base,
    data: Sequence[Dataset],
    workdir: str | Path | None,
) -> Material:
    """Collect what is known without an evaluation.

    `workdir` is the folder of the training, whose curves and versions are told; None
    for a model of another origin.
    """
    folder = None if workdir is None else Path(workdir)
    history = []
    if folder is not None:
        history = log.lines_until(folder / "metrics.jsonl", math.inf)
    then = {} if folder is None else _content(folder / "config.json")
    return Material(title, run, base, data, history, versions(then), hardware())


def scored(
    told: Material,
    metrics: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    score: float = 0.5,
) -> Material:
    """Add what COCO results say of the scored split, and its worst pictures.

    `score` is that of `analysis.evaluate`: what confusion and pictures begin at.
    """
    data, cap = told.data[-1], told.run.model.roi.max_detections
    found = analysis.evaluate(data.annotations, results, cap, score)
    drawn = shots(data, results, told.run, score)
    return told._replace(metrics=metrics, found=found, shots=drawn)


def shots(
    data: Dataset,
    results: Sequence[Mapping[str, Any]],
    run: config.Run,
    score: float,
) -> list[Shot]:
    """Draw the images with most errors, at most `eval.max_pictures`."""
    found = worst.images(
        data.annotations,
        results,
        count=run.eval.max_pictures,
        max_detections=run.model.roi.max_detections,
        score=score,
    )
    records = {record.source_id: record for record in data.records}
    wanted = {one.image_id for one in found}
    own = [row for row in results if row["image_id"] in wanted]
    drawn = []
    for one in found:
        record = records[one.image_id]
        boxes = rows_of.from_results(own, one.image_id, data.category_ids)
        try:
            image = transforms.decode(record.path, run.data.max_image_pixels)
        except transforms.BadImage:  # counted while scoring
            drawn.append(Shot(record.path.name, one.errors, None))
            continue
        scale = min(1.0, SIDE / max(image.shape[:2]))
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
        truth = record._replace(boxes=record.boxes * scale)
        boxes = boxes._replace(boxes=boxes.boxes * scale)
        picture = vis.side_by_side(image, truth, boxes, data.class_names, score)
        drawn.append(Shot(record.path.name, one.errors, picture))
    return drawn


def versions(then: Mapping[str, Any]) -> list[tuple[str, str, str | None]]:
    """Name, version here and version that the training ran with, where it is known."""
    here = about.versions() | {
        name: metadata.version(name) for name in ("numpy", "pillow")
    }
    rows = [(name, text, then.get(name)) for name, text in here.items()]
    return [*rows, ("python", platform.python_version(), None)]


def hardware() -> list[tuple[str, str]]:
    """Name and description of what this process computes on."""
    devices = jax.devices()
    return [
        ("devices", f"{len(devices)} x {devices[0].device_kind}"),
        ("processes", str(jax.process_count())),
        ("processors", str(os.cpu_count())),
        ("system", platform.platform()),
    ]


def _content(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}
