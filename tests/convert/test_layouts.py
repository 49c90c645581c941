"""One array at a time: order of axes and channels, verified by hand and by einsum."""

import numpy as np
import pytest

from frcnn_jax.convert import layouts


def numbers(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_layouts_by_hand():
    ours = layouts.CONV.to_ours(numbers(2, 3, 4, 5))
    assert ours[3, 4, 2, 1] == numbers(2, 3, 4, 5)[1, 2, 3, 4]
    assert layouts.DENSE.to_ours(np.array([[1, 2, 3], [4, 5, 6]])).tolist() == [
        [1, 4],
        [2, 5],
        [3, 6],
    ]
    # Classes 1 and 2 hold 10 and 20, the background 90.
    assert layouts.VECTOR_BACKGROUND_LAST.to_ours(np.array([10, 20, 90])).tolist() == [
        90,
        10,
        20,
    ]
    kernel = np.array([[10, 11], [20, 21], [90, 91]])  # (classes, in)
    assert layouts.DENSE_BACKGROUND_LAST.to_ours(kernel).tolist() == [
        [90, 10, 20],
        [91, 11, 21],
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_every_layout_returns_to_the_same_bits(dtype):
    rng = np.random.default_rng(0)
    cases = [
        (layouts.VECTOR, (5,)),
        (layouts.CONV, (6, 2, 3, 3)),
        (layouts.DENSE, (3, 4)),
        (layouts.DENSE_BACKGROUND_LAST, (4, 3)),
        (layouts.VECTOR_BACKGROUND_LAST, (4,)),
        (layouts.dense_after_pool(2), (3, 20)),
    ]
    for layout, shape in cases:
        array = rng.standard_normal(shape).astype(dtype)
        ours = layout.to_ours(array)
        assert ours.flags.c_contiguous and ours.dtype == dtype
        back = layout.to_theirs(ours)
        assert back.shape == shape and back.tobytes() == array.tobytes(), layout.name


def test_first_fc_sees_the_same_crop():
    rng = np.random.default_rng(1)
    crops = rng.standard_normal((6, 4, 3, 3))  # [K, C, pool, pool]
    kernel = rng.standard_normal((5, 4 * 3 * 3))
    expected = np.einsum("kcyx,ocyx->ko", crops, kernel.reshape(5, 4, 3, 3))
    np.testing.assert_allclose(crops.reshape(6, -1) @ kernel.T, expected, rtol=1e-10)

    ours = layouts.dense_after_pool(3).to_ours(kernel)
    channels_last = crops.transpose(0, 2, 3, 1).reshape(6, -1)
    np.testing.assert_allclose(channels_last @ ours, expected, rtol=1e-10)


def test_first_fc_names_a_width_that_is_no_crop():
    with pytest.raises(ValueError, match=r"9 x C inputs .* found shape \(2, 20\)"):
        layouts.dense_after_pool(3).to_ours(numbers(2, 20))
