"""Which part of a padded canvas belongs to the image.

Most peers pad each image to a multiple of 32 and let convolutions see zeros beyond. A
larger canvas would put relu(bias) there instead. Zeroing everything outside the image's
own area (see `cells`) before each spatial convolution makes any canvas equal to tight
padding.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

DIVISOR = 32  # canvases are multiples of it; so is mmdetection's padding


def padded_hw(image_hw: Float[Array, "*b 2"]) -> Float[Array, "*b 2"]:
    """Image size rounded up to a multiple of 32 pixels."""
    return jnp.ceil(image_hw / DIVISOR) * DIVISOR


def cells(
    image_hw: Float[Array, "*b 2"], stride: int, rule: str = "padded32"
) -> Float[Array, "*b 2"]:
    """Cells of a map of this stride that belong to the image.

    "padded32" counts those of the image padded to a multiple of 32 pixels (mmdetection,
    torchvision, detectron2's FPN), "ceil" and "floor" those of the bare image under
    symmetrically padded convolutions (detectron2's C4 and DC5) and under pools of 2x2
    (VGG); "caffe" is "ceil" with the stem's pool of rule `stem_pool="ceil"`, which
    loses an odd last row of stride 2. "canvas" counts every cell there is (torchvision
    for images that share a batch).
    """
    match rule:
        case "padded32":
            return jnp.ceil(padded_hw(image_hw) / stride)
        case "ceil":
            return jnp.ceil(image_hw / stride)
        case "floor":
            return jnp.floor(image_hw / stride)
        case "canvas":
            return jnp.full_like(image_hw, jnp.inf)
        case "caffe" if stride >= 4:
            stride_4 = jnp.floor(jnp.ceil(image_hw / 2) / 2)
            return jnp.ceil(stride_4 / (stride // 4))
        case "caffe":
            return jnp.ceil(image_hw / stride)
    raise ValueError(f"no rule {rule!r} for the cells of an image")


def inside(
    shape_hw: tuple[int, ...], cells: Float[Array, "b 2"]
) -> Bool[Array, "b h w 1"]:
    """Mask of the first `cells` rows and columns of a map."""
    row = jnp.arange(shape_hw[0])[None, :, None, None]
    column = jnp.arange(shape_hw[1])[None, None, :, None]
    cells = cells[:, :, None, None, None]
    return (row < cells[:, 0]) & (column < cells[:, 1])
