"""3x3 convolutions of stride 1 with a quarter of the products (Winograd).

Lavin and Gray (2016): 4x4 outputs need 36 products for a pair of channels where the
definition takes 144. Tiles of 6x6 inputs and the kernel are evaluated at 6 points along
each axis, as polynomials are before they are multiplied; there the convolution is 36
matrix products of channels, whose results are interpolated. Its gradient in the kernel
is the same with tiles of the output's gradient. In exact arithmetic all equals the
definition.

Points are 0, infinity and +-sqrt(1/2), +-sqrt(2), not the usual +-1, +-2: rounding
errors are half as large with them. Of 256 channels in float32, outputs are off by
1.2e-6 of their size (root mean squares; XLA's own convolution: 0.5e-6).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

SIZE = 4  # outputs of a tile along an axis
INPUT = SIZE + 2
POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2.0**0.5, -(2.0**0.5))  # and infinity
TILES = 400  # at a time: long enough for products, short enough for the cache
FEWEST = 200  # tiles of a map for which transforming the kernel pays
NARROWEST = 128  # channels, likewise for transforming tiles


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows are points: of an input's tile, of the kernel, of outputs (transposed)."""
    ends = np.eye(INPUT)[-1]  # infinity: the highest coefficient
    others = [POINTS[:i] + POINTS[i + 1 :] for i in range(len(POINTS))]
    finite = [[*np.poly(roots)[::-1], 0.0] for roots in others]
    inputs = np.array([*finite, np.poly(POINTS)[::-1]])
    powers = np.vander(POINTS, SIZE, increasing=True)
    gaps = [np.prod(np.subtract(p, o)) for p, o in zip(POINTS, others, strict=True)]
    kernel = np.vstack([powers[:, :3] / np.array(gaps)[:, None], ends[-3:]])
    return inputs, kernel, np.vstack([powers, ends[-SIZE:]])


OF_INPUT, OF_KERNEL, OF_OUTPUT = _matrices()


def pays(x: Array, features: int) -> bool:
    """Whether maps [b, h, w, c] are long and wide enough on a CPU."""
    _, height, width, channels = x.shape
    tiles = -(-height // SIZE) * -(-width // SIZE)
    wide = min(channels, features) >= NARROWEST
    return x.dtype == jnp.float32 and wide and tiles >= FEWEST


@jax.jit
def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c f"]
) -> Float[Array, "b h w f"]:
    """Convolution of stride 1 with one cell of zeros on every side."""
    images, height, width, _ = x.shape
    features = kernel.shape[-1]
    rows, columns, blocks = _layout(height, width)
    padded = _pad(x, rows * blocks, columns)
    points = _kernel_points(kernel)

    def add(block, out):
        image, row = block // blocks, block % blocks * rows * SIZE
        tiles = _input_points(padded, image, row, rows, columns)
        found = lax.dot_general(tiles, points, (((2,), (1,)), ((0,), (0,))))
        found = found.reshape(INPUT, INPUT, rows, columns, features)
        found = _combine(OF_OUTPUT.T, [found[:, j] for j in range(INPUT)], 3)
        found = _combine(OF_OUTPUT.T, list(found), 1)
        found = found.reshape(1, rows * SIZE, columns * SIZE, features)
        return lax.dynamic_update_slice(out, found, (image, row, 0, 0))

    shape = (images, rows * blocks * SIZE, columns * SIZE, features)
    out = lax.fori_loop(0, images * blocks, add, jnp.zeros(shape, x.dtype))
    return out[:, :height, :width]


def input_gradient(
    grad: Float[Array, "b h w f"], kernel: Float[Array, "3 3 c f"]
) -> Float[Array, "b h w c"]:
    """The gradient of `convolve` in its input: a convolution of the gradient."""
    return convolve(grad, kernel[::-1, ::-1].swapaxes(2, 3))


@jax.jit
def kernel_gradient(
    x: Float[Array, "b h w c"], grad: Float[Array, "b h w f"]
) -> Float[Array, "3 3 c f"]:
    """The gradient of `convolve` in its kernel."""
    images, height, width, channels = x.shape
    features = grad.shape[-1]
    rows, columns, blocks = _layout(height, width)
    padded = _pad(x, rows * blocks, columns)
    below, right = rows * blocks * SIZE - height, columns * SIZE - width
    grad = jnp.pad(grad, ((0, 0), (0, below), (0, right), (0, 0)))

    def add(block, total):
        image, row = block // blocks, block % blocks * rows * SIZE
        tiles = _input_points(padded, image, row, rows, columns)
        shape = (1, rows * SIZE, columns * SIZE, features)
        part = lax.dynamic_slice(grad, (image, row, 0, 0), shape)[0]
        ours = _points(OF_OUTPUT, part, rows, columns)
        return total + lax.dot_general(tiles, ours, (((1,), (1,)), ((0,), (0,))))

    total = jnp.zeros((INPUT * INPUT, channels, features), x.dtype)
    total = lax.fori_loop(0, images * blocks, add, total)
    total = total.reshape(INPUT, INPUT, channels, features)
    total = _combine(OF_KERNEL.T, list(total), 0)
    return _combine(OF_KERNEL.T, [total[:, j] for j in range(INPUT)], 1)


def _layout(height: int, width: int) -> tuple[int, int, int]:
    """Tile rows of a block, tiles of a row, and blocks of an image."""
    rows, columns = -(-height // SIZE), -(-width // SIZE)
    each = -(-rows // max(1, round(rows * columns / TILES)))
    return each, columns, -(-rows // each)


def _pad(x, rows: int, columns: int):
    """One cell of zeros before, and as many behind as whole tiles need."""
    _, height, width, _ = x.shape
    behind = rows * SIZE + 1 - height, columns * SIZE + 1 - width
    return jnp.pad(x, ((0, 0), (1, behind[0]), (1, behind[1]), (0, 0)))


def _kernel_points(kernel):
    """[3, 3, c, f] -> [36, c, f]."""
    found = _combine(OF_KERNEL, list(kernel), 0)
    found = _combine(OF_KERNEL, [found[:, j] for j in range(3)], 1)
    return found.reshape(-1, *kernel.shape[2:])


def _input_points(padded, image, row, rows: int, columns: int):
    """The tiles of some rows of an image, [36, tiles, c]."""
    shape = (1, rows * SIZE + 2, columns * SIZE + 2, padded.shape[-1])
    part = lax.dynamic_slice(padded, (image, row, 0, 0), shape)[0]
    return _points(OF_INPUT, part, rows, columns)


def _points(matrix, part, rows: int, columns: int):
    """Tiles of cells [i, j, c], which may overlap, at all points: [36, tiles, c]."""

    def cells(x, axis, count):  # cell 0 of all tiles, cell 1, ..
        last = (count - 1) * SIZE + 1
        return [
            lax.slice_in_dim(x, i, i + last, SIZE, axis) for i in range(matrix.shape[1])
        ]

    found = _combine(matrix, cells(part, 0, rows), 0)
    found = _combine(matrix, cells(found, 2, columns), 1)
    return found.reshape(INPUT * INPUT, rows * columns, -1)


def _combine(matrix: np.ndarray, parts: list, axis: int):
    """The product of a matrix and a list of arrays, its rows along a new axis.

    Written out: XLA's product with so small a matrix takes several times as long.
    """

    def row(weights):
        terms = [
            part if weight == 1 else np.float32(weight) * part
            for weight, part in zip(weights, parts, strict=True)
            if weight
        ]
        return sum(terms[1:], terms[0])

    return jnp.stack([row(weights) for weights in matrix], axis)
