"""Pictures to make data sets of."""

import io

import numpy as np
from PIL import Image


def encode(picture, kind="PNG", **options) -> bytes:
    """A picture, an array or Pillow's, as the bytes of a file."""
    stream = io.BytesIO()
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(stream, kind, **options)
    return stream.getvalue()


def scene(shade=0, h=40, w=60) -> np.ndarray:
    """A smooth picture; another for each shade."""
    y, x = np.mgrid[:h, :w]
    return np.stack([x * 4, y * 6, x + y + shade], -1).astype(np.uint8)
