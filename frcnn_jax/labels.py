"""What the classes of a model are called: by its data, by its weights, or by number."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from frcnn_jax import config
from frcnn_jax.data import coco_classes, records


class Labels(NamedTuple):
    """What the classes of a model are called, label 1 first."""

    class_names: tuple[str, ...]
    category_ids: tuple[int | str | None, ...]  # None: no category has this label


def of_data(data: records.Dataset) -> Labels:
    """Class names and category ids of a data set."""
    return Labels(data.class_names, data.category_ids)


def of_metadata(metadata: Mapping[str, str]) -> Labels | None:
    """Those that a weight file of ours carries."""
    if not {"class_names", "category_ids"} <= metadata.keys():
        return None
    texts = metadata["class_names"], metadata["category_ids"]
    return Labels(*(tuple(json.loads(text)) for text in texts))


def of_names(names: tuple[str, ...]) -> Labels:
    """Classes by name, with COCO's ids where all are COCO's, else numbers."""
    ids = dict(zip(coco_classes.NAMES, coco_classes.IDS, strict=True))
    if all(name in ids for name in names):
        return Labels(names, tuple(ids[name] for name in names))
    return Labels(names, tuple(range(1, len(names) + 1)))


def of_coco(run: config.Run) -> Labels | None:
    """COCO's, for as many classes as its models have.

    With 90 a label is taken for COCO's id, as in torchvision's weights; a subset of
    COCO's in `data.classes` names as many.
    """
    names, ids = coco_classes.NAMES, coco_classes.IDS
    classes, subset = run.model.num_classes, run.data.classes
    if classes == len(names):
        return Labels(names, ids)
    if classes == max(ids):
        return Labels(*records.ids_as_labels(names, ids))
    found = [pair for pair in zip(names, ids, strict=True) if pair[0] in subset]
    if subset and len(found) == len(subset) == classes:
        return Labels(*zip(*found, strict=True))
    return None


def guessed(run: config.Run) -> Labels:
    """Names for weights that name nothing: COCO's, or numbers."""
    numbers = tuple(range(1, run.model.num_classes + 1))
    by_number = Labels(tuple(f"class {n}" for n in numbers), numbers)
    return of_coco(run) or by_number
