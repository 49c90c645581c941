"""Deterministic, numpy-only weight and image recipes shared by every golden.

A weight tensor depends only on its state_dict key and shape, so any framework can regenerate the weights of a
full-size model without storing them.  RandomState (MT19937) is used because numpy freezes its stream.
"""

import zlib

import numpy as np


def _is_bn(key):
    leaf = key.split(".")[-2]
    return (
        leaf.startswith("bn")
        or key.split(".")[-3:-1] == ["downsample", "1"]
        or (
            len(key.split(".")) >= 3
            and key.split(".")[-3] == "downsample"
            and leaf == "1"
        )
    )


def tensor(key, shape, last_bn="bn3", in_scale=1.0, gains=None, offsets=None):
    """Value of one state_dict entry (float32; int64 zeros for num_batches_tracked)."""
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    rs = np.random.RandomState(zlib.crc32(key.encode("ascii")) & 0xFFFFFFFF)
    n = rs.standard_normal(tuple(shape))
    stem = key.startswith("backbone.bn1.")
    if key.endswith("running_var"):
        v = (1.0 + 0.2 * np.abs(n)) * (in_scale**2 if stem else 1.0)
    elif key.endswith("running_mean"):
        v = 0.1 * n * (in_scale if stem else 1.0)
    elif _is_bn(key):
        if key.endswith(".weight"):
            v = 0.3 + 0.05 * n if key.split(".")[-2] == last_bn else 1.0 + 0.1 * n
        else:
            v = 0.1 * n
    elif key.endswith(".weight"):
        fan_in = int(np.prod(shape[1:]))
        g = 1.0 if ".downsample.0." in key else 2.0
        v = n * np.sqrt(g / fan_in)
    else:  # conv / linear bias
        v = 0.05 * n
    if gains and key in gains:
        v = v * gains[key]
    v = np.asarray(v, np.float32)
    if offsets and key in offsets:
        v = v + np.asarray(offsets[key], np.float32)
    return v


def state_dict(shapes, **kw):
    """shapes: {key: shape}. Returns {key: array}."""
    return {k: tensor(k, s, **kw) for k, s in shapes.items()}


def image(h, w, seed):
    """Smooth random uint8 BGR image (H, W, 3): low-frequency waves plus soft-edged rectangles and mild noise."""
    rs = np.random.RandomState(seed)
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    img = np.zeros((h, w, 3))
    for c in range(3):
        for _ in range(6):
            fx, fy = rs.uniform(-4, 4, 2)
            img[..., c] += rs.uniform(4, 14) * np.cos(
                2 * np.pi * (fx * x / w + fy * y / h) + rs.uniform(0, 6.283)
            )
    img += rs.uniform(90, 150, 3)
    for _ in range(12):
        bw, bh = rs.uniform(12, w * 0.4), rs.uniform(12, h * 0.4)
        cx, cy = rs.uniform(0, w), rs.uniform(0, h)
        e = rs.uniform(1.0, 4.0)
        m = (
            0.25
            * (1 + np.tanh((bw / 2 - np.abs(x - cx)) / (2 * e)))
            * (1 + np.tanh((bh / 2 - np.abs(y - cy)) / (2 * e)))
        )
        img += m[..., None] * rs.uniform(-70, 70, 3)
    img += rs.normal(0, 2.0, img.shape)
    return np.clip(np.round(img), 0, 255).astype(np.uint8)
