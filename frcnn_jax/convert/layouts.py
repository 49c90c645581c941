"""How arrays lie in memory on their side and on ours: named pairs of functions.

Ours: NHWC, kernels HWIO, dense kernels (in, out), logits [background, 1..C]. Theirs is
torch's: kernels OIHW, dense weights (out, in). Each pair moves values and returns to
the same bits. An array that a layout cannot take is a ValueError with its shape; the
caller knows the name. No names here: see `rules`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """How one array is laid out on each side.

    `to_ours` None: the array holds nothing we keep; it is dropped and counted.
    `to_theirs` then makes the array to write back from the one at the rule's path of
    ours, or is None where nothing is written.
    """

    name: str
    to_ours: Callable[[np.ndarray], np.ndarray] | None
    to_theirs: Callable[[np.ndarray], np.ndarray] | None


def _permuted(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    if array.ndim != len(axes):
        raise ValueError(f"expected {len(axes)} axes, found shape {array.shape}")
    return np.ascontiguousarray(array.transpose(axes))


def _rolled(array: np.ndarray, *, shift: int, ndim: int) -> np.ndarray:
    """Moves the last class to the front (shift 1) or back (-1) on the last axis."""
    if array.ndim != ndim:
        raise ValueError(f"expected {ndim} axes, found shape {array.shape}")
    return np.roll(array, shift, axis=-1)


def _transposed(array: np.ndarray) -> np.ndarray:
    return _permuted(array, (1, 0))


def _vector(array: np.ndarray) -> np.ndarray:
    return _permuted(array, (0,))


VECTOR = Layout("vector", _vector, _vector)
CONV = Layout(
    "conv OIHW <-> HWIO",
    lambda array: _permuted(array, (2, 3, 1, 0)),
    lambda array: _permuted(array, (3, 2, 0, 1)),
)
DENSE = Layout("dense (out, in) <-> (in, out)", _transposed, _transposed)
DENSE_BACKGROUND_LAST = Layout(
    "dense, classes [1..C, background] <-> [background, 1..C]",
    lambda array: _rolled(_transposed(array), shift=1, ndim=2),
    lambda array: _transposed(_rolled(array, shift=-1, ndim=2)),
)
VECTOR_BACKGROUND_LAST = Layout(
    "vector, classes [1..C, background] <-> [background, 1..C]",
    lambda array: _rolled(array, shift=1, ndim=1),
    lambda array: _rolled(array, shift=-1, ndim=1),
)
STEP_COUNTER = Layout(
    "step counters of batch norm", None, lambda mean: np.zeros((), np.int64)
)
CLASSIFIER = Layout("the classification layer", None, None)


def dense_after_pool(pool_size: int) -> Layout:
    """Makes the layout of a dense layer fed by a flattened crop.

    Torch flattens a crop channel-major, (C, pool, pool); ours is (pool, pool, C). C is
    what remains of the input width. The layout raises ValueError where `pool_size`
    squared does not divide that width.
    """
    cells = pool_size * pool_size

    def check(array: np.ndarray, axis: int) -> np.ndarray:
        if array.ndim != 2 or array.shape[axis] % cells:
            raise ValueError(
                f"expected 2 axes and {cells} x C inputs on axis {axis} (pool size "
                f"{pool_size}), found shape {array.shape}"
            )
        return array

    def to_ours(array: np.ndarray) -> np.ndarray:
        crops = check(array, 1).reshape(len(array), -1, pool_size, pool_size)
        return _permuted(crops, (2, 3, 1, 0)).reshape(-1, len(array))

    def to_theirs(array: np.ndarray) -> np.ndarray:
        out = check(array, 0).shape[1]
        crops = array.reshape(pool_size, pool_size, -1, out)
        return _permuted(crops, (3, 2, 0, 1)).reshape(out, -1)

    return Layout(f"dense after a {pool_size} x {pool_size} crop", to_ours, to_theirs)


def size_major_anchors(values: int, ndim: int, ratios: int = 3) -> Layout:
    """Makes the layout of RPN outputs whose anchors run over sizes first.

    The last axis of ours holds `values` numbers per anchor, anchors with the ratio as
    the slow and the size as the fast index; detectron2 has it the other way round.
    `ndim` is 4 for kernels and 1 for biases. The layout raises ValueError for a width
    that is no multiple of `ratios` * `values`.
    """

    def reorder(array: np.ndarray, slow: int) -> np.ndarray:
        """Exchanges the two anchor indices, of which `slow` values are slow now."""
        if array.shape[-1] % (ratios * values):
            shape = array.shape
            raise ValueError(f"expected {ratios} ratios x {values}, found {shape}")
        fast = array.shape[-1] // (slow * values)
        split = array.reshape(*array.shape[:-1], slow, fast, values)
        return np.ascontiguousarray(split.swapaxes(-3, -2)).reshape(array.shape)

    plain = CONV if ndim == 4 else VECTOR

    def to_ours(array: np.ndarray) -> np.ndarray:
        array = plain.to_ours(array)
        return reorder(array, array.shape[-1] // (ratios * values))

    def to_theirs(array: np.ndarray) -> np.ndarray:
        return plain.to_theirs(reorder(array, ratios))

    return Layout(f"{plain.name}, anchors by size <-> by ratio", to_ours, to_theirs)
