"""Which part of a padded canvas belongs to the image.

The peers pad each image to a multiple of 32 and let convolutions see zeros beyond. A
larger canvas would put relu(bias) there instead. Zeroing everything outside the image's
own 32-padded area before each spatial convolution makes any canvas equal to tight
padding.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

DIVISOR = 32  # mmdetection's pad_size_divisor


def padded_hw(image_hw: Float[Array, "*b 2"]) -> Float[Array, "*b 2"]:
    """Image size rounded up to a multiple of 32 pixels."""
    return jnp.ceil(image_hw / DIVISOR) * DIVISOR


def cells(image_hw: Float[Array, "*b 2"], stride: int) -> Float[Array, "*b 2"]:
    """Cells of a map of this stride that belong to the image's 32-padded area."""
    return jnp.ceil(padded_hw(image_hw) / stride)


def inside(
    shape_hw: tuple[int, int], cells: Float[Array, "b 2"]
) -> Bool[Array, "b h w 1"]:
    """Mask of the first `cells` rows and columns of a map."""
    row = jnp.arange(shape_hw[0])[None, :, None, None]
    column = jnp.arange(shape_hw[1])[None, None, :, None]
    cells = cells[:, :, None, None, None]
    return (row < cells[:, 0]) & (column < cells[:, 1])
