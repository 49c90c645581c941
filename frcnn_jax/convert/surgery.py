"""The class head of a file for a model with other classes: rows found by name.

Background and the classes that both sides have keep their trained rows, all others stay
as the model starts them. Only the last layer of the box head has rows for classes.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from frcnn_jax.convert.peers import classes
from frcnn_jax.convert.rules import ConversionError, Flat, few

_KEYS: tuple[str, ...] = ("class_names", "meta.CLASSES", "meta.dataset_meta.CLASSES")
_KEYS += ("meta.classes", "meta.dataset_meta.classes")  # of ours, and of mmdetection
_SHOWN = 8
HEAD = "params/box_head/predictor/"


class Report(NamedTuple):
    """What became of the class head."""

    kept: tuple[str, ...]  # classes with the rows of the file
    fresh: tuple[str, ...]  # classes that the file does not have
    unused: tuple[str, ...]  # classes of the file that the model does not have
    sliced: tuple[str, ...]  # paths put together row by row

    def text(self) -> str:
        """Returns one printable line."""
        parts = [f"{len(self.sliced)} arrays sliced; background kept"]
        for label, names in (
            ("kept", self.kept),
            ("re-initialised", self.fresh),
            ("unused", self.unused),
        ):
            shown = f" ({few(names, _SHOWN)})" if names else ""
            parts.append(f"{label} {len(names)}{shown}")
        return f"class head by name: {', '.join(parts)}"


def class_names(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The classes that a file's metadata names, label 1 first; () where it does not."""
    for key in _KEYS:
        if key in metadata:
            return _names(metadata[key])
    return ()


def _names(text: str) -> tuple[str, ...]:
    try:
        found = json.loads(text)
    except ValueError:
        found = [text]  # a model of one class, named without a list
    good = isinstance(found, list) and all(isinstance(name, str) for name in found)
    return tuple(found) if good else ()


def keep_classes(
    fresh: Mapping[str, np.ndarray],
    loaded: Mapping[str, np.ndarray],
    names: Sequence[str],
    wanted: Sequence[str],
) -> tuple[Flat, Report]:
    """Returns `loaded` with a class head for `wanted`, and what was done.

    `names` are the classes of the file, `wanted` those of the model, label 1 first;
    `fresh` are the model's initial values. Raises ConversionError where names and rows
    do not agree in number or a name comes twice.
    """
    for side, arrays, found in (("file", loaded, names), ("model", fresh, wanted)):
        if classes(arrays) != len(found) or len(set(found)) != len(found):
            raise ConversionError(
                f"the {side} has {classes(arrays)} classes and {len(set(found))} names"
                f" for them ({few(found, _SHOWN)}): leave its class head out with"
                " --config.init.skip='box_head/predictor/.*'"
            )
    adapted, sliced = dict(loaded), []
    for path in [path for path in loaded if path.startswith(HEAD)]:
        if path in fresh and loaded[path].shape[:-1] == fresh[path].shape[:-1]:
            adapted[path] = _rows(fresh[path], loaded[path], names, wanted, path)
            sliced.append(path)
    kept = tuple(name for name in wanted if name in names)
    missing = tuple(name for name in wanted if name not in names)
    unused = tuple(name for name in names if name not in wanted)
    return adapted, Report(kept, missing, unused, tuple(sliced))


def _rows(fresh, loaded, names, wanted, path: str) -> np.ndarray:
    """One array of the predictor; the last axis runs over classes, then values."""
    values = 4 if path.startswith(f"{HEAD}deltas/") else 1
    made = np.array(fresh)
    places = _places(loaded, names, values)
    for name, place in _places(fresh, wanted, values).items():
        if name in places:
            made[..., place] = loaded[..., places[name]]
    return made


def _places(
    array: np.ndarray, names: Sequence[str], values: int
) -> dict[str | None, slice]:
    """Where each class has its values; background, None, may have none."""
    first = array.shape[-1] // values - len(names)
    order = [None][:first] + list(names)
    return {name: slice(values * i, values * (i + 1)) for i, name in enumerate(order)}
