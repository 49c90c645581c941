"""What the files of this folder hold, from seeds: used by make.py and by the tests."""

import numpy as np


def values(seed: int, *shape: int) -> np.ndarray:
    """Normal numbers that float16 and bfloat16 hold exactly."""
    numbers = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return (numbers.view(np.uint32) & 0xFFFF0000).view(np.float32)


def plain() -> dict[str, np.ndarray]:
    """Every type and every kind of view, as they are read (bfloat16 as float32)."""
    shared = values(1, 6, 4)
    return {
        "matrix": values(0, 3, 2),
        "transposed": values(0, 3, 2).T,
        "parameter": values(2, 5),
        "shared": shared,
        "shared_rows": shared[2:4],
        "shared_column": shared[:, 1],
        "shared_every_second": shared[1::2, ::2],
        "scalar": values(3, 1)[0:1].reshape(()),
        "counter": np.array(7, np.int64),
        "empty": np.zeros((0, 4), np.float32),
        "float16": values(4, 4).astype(np.float16),
        "bfloat16": values(5, 2, 3),
        "bfloat16_column": values(5, 2, 3)[:, 2],
        "float64": values(6, 2).astype(np.float64),
        "int32": np.array([-(2**31), 2**31 - 1], np.int32),
        "int16": np.array([-(2**15), 5], np.int16),
        "int8": np.array([-128, 127], np.int8),
        "uint8": np.array([0, 255], np.uint8),
        "bool": np.array([True, False, True]),
    }


def weights(seed: int = 10) -> dict[str, np.ndarray]:
    """A few named arrays, as of a small detector."""
    return {
        "backbone.conv1.weight": values(seed, 4, 3, 2, 2),
        "rpn_head.rpn_conv.weight": values(seed + 1, 2, 4, 1, 1),
        "rpn_head.rpn_conv.bias": values(seed + 2, 2),
    }


CLASSES = ("person", "traffic light", "été")
