"""2-D convolution, NHWC and HWIO, padded symmetrically as in torch.

1x1 convolutions are matrix products, which are quicker in training. Elsewhere XLA's own
convolution and gradients are used, but for CPUs, where these are slow:

* 3x3 convolutions of many cells and channels, with their gradients, are computed as
  Winograd does, see `winograd.py`.
* The weight gradient of 1x1, by itself a product of transposed operands, is written as
  one of flat matrices.
* Other weight gradients, convolutions with a kernel as large as the map, take two to
  twelve times as long as forward. Here one is a sum over blocks of rows, of one
  matrix product each. Of stride 1, side by side lie on the left the block of the input
  moved by each of K columns, on the right the gradient moved by each of K rows, so that
  the product, of K * C_in by K * C_out, holds every pair of moves: all of the kernel.
  Other strides have all K * K moves on the left. A block of some hundred cells stays in
  the cache; K * K moved copies of a whole map would not.
* Convolutions in groups (ResNeXt) are loops over single numbers, their gradients
  hundreds of times slower still. Here some groups at a time are one dense convolution,
  whose kernel is zero between groups: more arithmetic and far less time.
* Of depthwise ones (MobileNet) the same holds; they are sums of K * K moved copies.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from frcnn_jax.ops import winograd

BLOCK = 640  # cells: long enough for a product, short enough for the cache
NARROWEST = 32  # channels of a dense convolution of some groups
MOST = 8  # of these in place of one in groups; each is compiled by itself


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k c//{groups} f"],
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> Float[Array, "b i j f"]:
    """Convolution with k // 2 * dilation zeros on every side; k is odd."""
    if kernel.shape[0] == 1:
        x, stride = x[:, ::stride, ::stride], 1
    if groups > 1:
        return _grouped(x, kernel, stride, dilation, groups)
    return _dense(x, kernel, stride, dilation)


def _convolve(x, kernel, stride=1, dilation=1, groups=1):
    if kernel.shape[0] == stride == groups == 1:
        return x @ kernel[0, 0]
    padding = kernel.shape[0] // 2 * dilation
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _dense(x, kernel, stride, dilation):
    plain = partial(_convolve, stride=stride, dilation=dilation)
    if not _by_winograd(x, kernel, stride, dilation):
        return plain(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=winograd.convolve, default=plain)


def _dense_forward(x, kernel, stride, dilation):
    return _dense(x, kernel, stride, dilation), (x, kernel)


def _dense_backward(stride, dilation, saved, grad):
    x, kernel = saved
    how = kernel.shape[0], stride, dilation
    pull = partial(_input_gradient, stride, dilation, x.shape)
    on_cpu = partial(_kernel_gradient_in_blocks, *how)
    if kernel.shape[0] == 1:
        on_cpu = _kernel_gradient_of_product
    if _by_winograd(x, kernel, stride, dilation):
        on_cpu = winograd.kernel_gradient
        pull = partial(
            lax.platform_dependent, cpu=winograd.input_gradient, default=pull
        )
    elsewhere = partial(_kernel_gradient, *how)
    found = lax.platform_dependent(x, grad, cpu=on_cpu, default=elsewhere)
    return pull(grad, kernel), found.astype(kernel.dtype)


_dense.defvjp(_dense_forward, _dense_backward)


def _by_winograd(x, kernel, stride, dilation) -> bool:
    """Whether CPUs compute this convolution that way."""
    plain = kernel.shape[0] == 3 and stride == dilation == 1
    return plain and winograd.pays(x, kernel.shape[-1])


def _input_gradient(stride, dilation, shape, grad, kernel):
    """XLA's own: the convolution is linear in its input."""
    x = jax.ShapeDtypeStruct(shape, grad.dtype)
    pull = jax.linear_transpose(lambda x: _convolve(x, kernel, stride, dilation), x)
    return pull(grad)[0]


def _kernel_gradient(size, stride, dilation, x, grad):
    """XLA's own: it is linear in its kernel, too."""
    kernel = jnp.zeros((size, size, x.shape[-1], grad.shape[-1]), x.dtype)
    pull = jax.linear_transpose(lambda k: _convolve(x, k, stride, dilation), kernel)
    return pull(grad)[0]


def _kernel_gradient_of_product(x, grad):
    """The same for 1x1, which XLA transposes into a slower product by itself."""
    left, right = (a.reshape(-1, a.shape[-1]) for a in (x, grad))
    product = jnp.dot(left.T, right, preferred_element_type=jnp.float32)
    return product[None, None].astype(x.dtype)


def _kernel_gradient_in_blocks(size, stride, dilation, x, grad):
    """The same by matrix products, summed in float32; see the module's description."""
    (images, height, width, features), channels = grad.shape, x.shape[-1]
    rows = _divisor(height, BLOCK // width)
    some = 1 if rows < height else _divisor(images, BLOCK // (height * width))
    moves = [dilation * step for step in range(size)]
    border = (moves[-1] // 2,) * 2
    # Which rows of the input are moved, and which of the gradient.
    inputs, outputs = ([0], moves[::-1]) if stride == 1 else (moves, [0])
    low, high = (border if max(which) else (0, 0) for which in (inputs, outputs))
    x = jnp.pad(x, ((0, 0), low, border, (0, 0)))
    grad = jnp.pad(grad, ((0, 0), high, (0, 0), (0, 0)))
    span = (rows - 1) * stride + 1, (width - 1) * stride + 1

    def add(block, total):
        image, row = block // (height // rows) * some, block % (height // rows) * rows
        left = (some, span[0] + max(inputs), *x.shape[2:])
        left = lax.dynamic_slice(x, (image, row * stride, 0, 0), left)
        right = (some, rows + max(outputs), *grad.shape[2:])
        right = lax.dynamic_slice(grad, (image, row, 0, 0), right)
        # With stride 1, row i of the input meets row i + border - move of the gradient.
        left = [
            left[:, i : i + span[0] : stride, j : j + span[1] : stride]
            for i in inputs
            for j in moves
        ]
        right = [right[:, i : i + rows] for i in outputs]
        left = jnp.concatenate(left, -1).reshape(-1, len(left) * channels)
        right = jnp.concatenate(right, -1).reshape(-1, len(right) * features)
        return total + jnp.dot(left.T, right, preferred_element_type=jnp.float32)

    blocks = images // some * (height // rows)
    total = (len(inputs) * size * channels, len(outputs) * features)
    total = jnp.zeros(total, jnp.float32)
    total = lax.fori_loop(0, blocks, add, total)
    # One of the first and the fourth axis is the kernel's rows, the other has length 1.
    total = total.reshape(len(inputs), size, channels, len(outputs), features)
    total = total.transpose(0, 3, 1, 2, 4).reshape(size, size, channels, features)
    return total.astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _grouped(x, kernel, stride, dilation, groups):
    on_cpu, elsewhere = _ways(stride, dilation, groups, kernel)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=elsewhere)


def _grouped_forward(x, kernel, *how):
    return _grouped(x, kernel, *how), (x, kernel)


def _grouped_backward(stride, dilation, groups, saved, grad):
    # One gradient for each platform: that of `platform_dependent` keeps what all need.
    def of(way):
        return lambda x, kernel, grad: jax.vjp(way, x, kernel)[1](grad)

    on_cpu, elsewhere = map(of, _ways(stride, dilation, groups, saved[1]))
    return lax.platform_dependent(*saved, grad, cpu=on_cpu, default=elsewhere)


_grouped.defvjp(_grouped_forward, _grouped_backward)


def _ways(stride, dilation, groups, kernel):
    """How to compute a convolution in groups on CPUs, and elsewhere."""
    how = {"stride": stride, "dilation": dilation}
    each = kernel.shape[2:] == (1, groups)  # depthwise
    on_cpu = _depthwise if each else partial(_in_dense_parts, groups=groups)
    return partial(on_cpu, **how), partial(_convolve, groups=groups, **how)


def _depthwise(x, kernel, stride, dilation):
    """Every channel by itself: the sum of moved copies, in float32."""
    size = kernel.shape[0]
    pad = size // 2 * dilation
    height, width = (-(-side // stride) for side in x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))).astype(jnp.float32)

    def moved(i, j):
        rows = slice(i, i + (height - 1) * stride + 1, stride)
        return padded[:, rows, j : j + (width - 1) * stride + 1 : stride]

    terms = (
        moved(i * dilation, j * dilation) * kernel[i, j, 0]
        for i in range(size)
        for j in range(size)
    )
    return sum(terms).astype(x.dtype)


def _in_dense_parts(x, kernel, stride, dilation, groups):
    """Some groups at a time as one dense convolution, zero between groups."""
    size, _, inner, features = kernel.shape
    channels, outer = groups * inner, features // groups
    enough = min(max(NARROWEST, -(-channels // MOST)) // inner, groups)
    some = next(n for n in range(1, groups + 1) if groups % n == 0 and n >= enough)
    parts = kernel.reshape(size, size, inner, groups // some, some, outer)
    own = jnp.eye(some, dtype=kernel.dtype)
    parts = jnp.einsum("ijcpgf,hg->pijhcgf", parts, own)
    parts = parts.reshape(-1, size, size, some * inner, some * outer)
    inputs = jnp.split(x, groups // some, axis=-1)
    outputs = [
        _dense(*pair, stride, dilation) for pair in zip(inputs, parts, strict=True)
    ]
    return jnp.concatenate(outputs, -1)


def _divisor(number: int, limit: int) -> int:
    """The largest divisor up to a limit; 1 where the limit is smaller."""
    return max(
        n for n in range(1, number + 1) if number % n == 0 and n <= max(limit, 1)
    )
