"""What was found on one picture."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from frcnn_jax import vis
from frcnn_jax.data import transforms


@dataclass(frozen=True)
class Found:
    """Detections of one picture as plain numpy arrays, best first."""

    xyxy: np.ndarray  # [N, 4] float32, pixels of the picture
    scores: np.ndarray  # [N] float32, 0..1
    labels: np.ndarray  # [N] int32, 1..C: class_names[label - 1]
    class_names: tuple[str, ...]  # of the model, label 1 first
    hw: tuple[int, int]  # height and width of the picture

    def __len__(self) -> int:
        """Return the number of detections."""
        return len(self.labels)

    @property
    def names(self) -> np.ndarray:
        """The name of each detection's class, [N] of text."""
        found = [self.class_names[label - 1] for label in self.labels]
        return np.array(found, dtype=np.str_)

    def where(self, kept: np.ndarray) -> "Found":
        """The detections that a mask [N] of bool, or rows [K], choose."""
        parts = self.xyxy[kept], self.scores[kept], self.labels[kept]
        return replace(self, xyxy=parts[0], scores=parts[1], labels=parts[2])

    def above(self, score: float) -> "Found":
        """The detections with at least this score."""
        return self.where(self.scores >= score)

    def to_supervision(self) -> dict[str, Any]:
        """The arguments of supervision's Detections: `sv.Detections(**dict)`.

        `class_id` [N] counts from 0 there, so it is the label less one;
        `data["class_name"]` are the names.
        """
        return {
            "xyxy": self.xyxy,
            "confidence": self.scores,
            "class_id": self.labels.astype(int) - 1,
            "data": {"class_name": self.names},
        }

    def draw(self, image: Any) -> np.ndarray:
        """Draw the detections onto a copy: uint8 RGB [H, W, 3].

        `image` is what was predicted on, an array or a file. Errors: BadImage for a
        file that cannot be read, ValueError for an array that is no picture.
        """
        image = pixels(image) if _is_array(image) else transforms.decode(Path(image))
        rows = self.xyxy, self.labels, self.scores
        return vis.draw(image, *rows, class_names=self.class_names)


def pixels(image: Any) -> np.ndarray:
    """An array, or what numpy makes one of (a PIL image), as uint8 RGB [H, W, 3].

    Grey pictures are repeated, alpha is dropped. Errors: ValueError that says what is
    expected.
    """
    array = np.asarray(image)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in (3, 4):
        raise ValueError(
            f"a picture is {array.dtype} {array.shape}; it must be uint8 RGB of shape"
            " (height, width, 3), with values of 0 to 255"
        )
    if not array.size:
        raise ValueError(f"a picture of shape {array.shape} has no pixels")
    return np.ascontiguousarray(array[..., :3])


def _is_array(image: Any) -> bool:
    return not isinstance(image, str | Path)
