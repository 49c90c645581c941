"""What a data set is once read: records, class names and the table of category ids.

Conventions: boxes are xyxy in ORIGINAL image pixels, continuous (width = x2 - x1).
Labels are 1..C; label l stands for `category_ids[l - 1]`, and this is the only table
between the two; None there is a label that no category has. Records hold paths, not
pixels; nothing here opens an image.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

COCO_MAX_DETECTIONS = 100  # per image, in the official metric


class Stored(NamedTuple):
    """A picture that lies in a data set's own files instead of a file of its own."""

    name: str  # for people
    rows: Sequence  # of dictionaries with the encoded "image"
    row: int

    def read_bytes(self) -> bytes:
        """Return the encoded picture."""
        return self.rows[self.row]["image"]

    def __str__(self) -> str:
        """Return the name."""
        return self.name


class Record(NamedTuple):
    """One image and its boxes."""

    path: Path | Stored
    source_id: int | str  # the image id in the JSON
    width: int  # as in the JSON
    height: int
    boxes: np.ndarray  # [N, 4] float32, original pixels, inside the image
    labels: np.ndarray  # [N] int32, 1..C
    crowd: np.ndarray  # [N] bool


class Raw(NamedTuple):
    """A split as its source tells it, before any judgement."""

    name: str  # of the split
    source: str  # file or folder, for messages
    content: dict[str, Any]  # lists "images", "annotations", "categories", as in COCO
    # Of each entry of "images"; None = no file.
    pictures: Sequence[Path | Stored | None]


@dataclass(frozen=True)
class Dataset:
    """A split, ready for training or scoring."""

    name: str
    records: tuple[Record, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int | str | None, ...]  # of label 1, label 2, ...
    annotations: dict[str, Any]  # cleaned COCO dictionary of these images, for scoring
    skipped: dict[str, int]  # what was dropped or repaired, and how often


def summary(dataset: Dataset) -> str:
    """Describe a data set in a few lines: sizes, classes, and all that was not kept."""
    counts = Counter(int(label) for r in dataset.records for label in r.labels)
    per_image = [len(r.labels) for r in dataset.records]
    lines = [
        f"{dataset.name}: {len(per_image)} images ({per_image.count(0)} without boxes),"
        f" {sum(per_image)} boxes, {len(dataset.class_names)} classes",
        "  boxes per class: "
        + ", ".join(
            f"{name} {counts[label]}"
            for label, name in enumerate(dataset.class_names, start=1)
        ),
    ]
    crowded = sum(n > COCO_MAX_DETECTIONS for n in per_image)
    if crowded:
        lines.append(
            f"  note: {crowded} images hold more than {COCO_MAX_DETECTIONS} boxes (up"
            f" to {max(per_image)}); the COCO metric counts {COCO_MAX_DETECTIONS}"
            " detections per image, so they cannot reach full recall"
        )
    lines += [f"  {reason}: {n}" for reason, n in sorted(dataset.skipped.items())]
    return "\n".join(lines)


def align_classes(dataset: Dataset, class_names: Sequence[str]) -> Dataset:
    """Relabel a data set so that label l means `class_names[l - 1]`, by name.

    For a validation split whose JSON orders or numbers its categories differently from
    the training split. Records and `category_ids` are permuted; the scoring
    dictionary keeps its own ids. Raises ValueError when the two sets of names differ.
    """
    own = dataset.class_names
    missing = [name for name in class_names if name not in own]
    extra = [name for name in own if name not in class_names]
    if missing or extra:
        raise ValueError(
            f"{dataset.name}: classes differ from the ones expected:"
            + "".join(f" {name!r} is missing{hint(name, own)};" for name in missing)
            + "".join(
                f" {name!r} is not expected{hint(name, class_names)};" for name in extra
            )
            + " make the names equal in both JSON files, or choose common ones with"
            " data.classes"
        )
    new_label = np.zeros(len(own) + 1, np.int32)
    for old, name in enumerate(own, start=1):
        new_label[old] = list(class_names).index(name) + 1
    return dataclasses.replace(
        dataset,
        records=tuple(r._replace(labels=new_label[r.labels]) for r in dataset.records),
        class_names=tuple(class_names),
        category_ids=tuple(dataset.category_ids[own.index(n)] for n in class_names),
    )


def ids_as_labels(
    class_names: Sequence[str], category_ids: Sequence[Any]
) -> tuple[tuple[str, ...], tuple[int | None, ...]]:
    """Names and ids of labels that are the category ids, as torchvision counts them.

    Labels between that no category has are called so and have the id None.
    """
    names = dict(zip(category_ids, class_names, strict=True))
    labels = range(1, max(category_ids) + 1)
    return (
        tuple(names.get(label, f"unused {label}") for label in labels),
        tuple(label if label in names else None for label in labels),
    )


def relabel_by_id(dataset: Dataset) -> Dataset:
    """Relabel a data set so that a label is its category id."""
    names, ids = ids_as_labels(dataset.class_names, dataset.category_ids)
    new_label = np.asarray([0, *dataset.category_ids], np.int32)
    return dataclasses.replace(
        dataset,
        records=tuple(r._replace(labels=new_label[r.labels]) for r in dataset.records),
        class_names=names,
        category_ids=ids,
    )


def no_split(root: Any, split: str, known: Sequence[str]) -> FileNotFoundError:
    """Return the error for a split that is not there, with those that are."""
    return FileNotFoundError(
        f"{root} has no split {split!r}{hint(split, known)}; set data.train or data.val"
        f" to one of: {', '.join(known) or 'none is there'}"
    )


def hint(name: Any, known: Sequence[Any]) -> str:
    """Return " (did you mean ...?)" with the nearest known name, "" without any."""
    close = get_close_matches(str(name), [str(k) for k in known], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
