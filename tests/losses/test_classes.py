"""Classification losses: mmdetection's sums and gradients, values on paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.losses.classes import binary_cross_entropy, cross_entropy


@pytest.fixture(scope="module")
def peer(golden):
    return np.load(golden / "mmdet" / "f_losses.npz")


def test_binary_sum_and_gradient_equal_the_peer(peer):
    """There label 0 is the object, and 77 divides the weighted sum."""
    targets = jnp.asarray(peer["rpn_cls_label"] == 0, jnp.float32)
    weights = jnp.asarray(peer["rpn_cls_weight"])

    def loss(logits):
        return (binary_cross_entropy(logits, targets) * weights).sum() / 77

    logits = jnp.asarray(peer["rpn_cls_logit"][:, 0])
    ours, grad = jax.jit(jax.value_and_grad(loss))(logits)
    np.testing.assert_allclose(ours, peer["rpn_cls_loss"], rtol=1e-5)
    np.testing.assert_allclose(grad, peer["rpn_cls_grad"][:, 0], atol=1e-7, rtol=1e-5)


def test_softmax_sum_and_gradient_equal_the_peer(peer):
    """Here the background is class 0, there the last."""
    labels = jnp.asarray((peer["labels"] + 1) % 4, jnp.int32)
    weights = jnp.asarray(peer["label_weights"])
    count = (peer["label_weights"] > 0).sum()

    def loss(logits):
        return (cross_entropy(logits, labels) * weights).sum() / count

    logits = jnp.asarray(np.roll(peer["cls_logit"], 1, axis=1))
    ours, grad = jax.jit(jax.value_and_grad(loss))(logits)
    np.testing.assert_allclose(ours, peer["l1_loss_cls"], rtol=1e-5)
    theirs = np.roll(peer["l1_grad_cls"], 1, axis=1)
    np.testing.assert_allclose(grad, theirs, rtol=1e-5, atol=1e-8)


def test_values_on_paper():
    """Undecided logits cost ln 2 and ln C; 0.75 against 0.25 costs -ln."""
    zero = jnp.zeros(2)
    found = binary_cross_entropy(zero, jnp.asarray([0.0, 1.0]))
    np.testing.assert_allclose(found, np.log([2, 2]), rtol=1e-6)
    found = cross_entropy(jnp.zeros((1, 5)), jnp.asarray([3]))
    np.testing.assert_allclose(found, np.log([5]), rtol=1e-6)
    logits = jnp.asarray([[np.log(3.0), 0.0]])
    found = cross_entropy(jnp.concatenate([logits, logits]), jnp.asarray([0, 1]))
    np.testing.assert_allclose(found, -np.log([0.75, 0.25]), rtol=1e-6)


def test_two_class_softmax_is_the_binary_loss(rng):
    logits = jnp.asarray(rng.standard_normal((6, 7)) * 5, jnp.float32)
    labels = jnp.asarray(rng.integers(0, 2, (6, 7)), jnp.int32)
    both = jnp.stack([jnp.zeros_like(logits), logits], -1)
    np.testing.assert_allclose(
        cross_entropy(both, labels),
        binary_cross_entropy(logits, labels.astype(jnp.float32)),
        atol=1e-5,
    )


def test_extreme_logits_stay_finite():
    logits, targets = jnp.asarray([1e4, -1e4, 1e4, -1e4]), jnp.asarray([1.0, 0, 0, 1])
    value, pull = jax.vjp(lambda x: binary_cross_entropy(x, targets), logits)
    assert value.tolist() == [0, 0, 1e4, 1e4]
    np.testing.assert_allclose(pull(jnp.ones(4))[0], [0, 0, 1, -1], atol=1e-6)
    labels = jnp.asarray([0, 1])
    value, pull = jax.vjp(
        lambda x: cross_entropy(jnp.stack([x, -x]), labels), jnp.asarray([1e4, -1e4])
    )
    assert value.tolist() == [0, 0]
    assert np.isfinite(np.asarray(pull(jnp.ones(2))[0])).all()


def test_leading_axes_stay_and_bfloat16_becomes_float32():
    logits = jnp.zeros((2, 3, 4), jnp.bfloat16)
    found = cross_entropy(logits, jnp.zeros((2, 3), jnp.int32))
    assert found.shape == (2, 3) and found.dtype == jnp.float32
    found = binary_cross_entropy(logits, jnp.zeros((2, 3, 4)))
    assert found.shape == (2, 3, 4) and found.dtype == jnp.float32
    assert cross_entropy(jnp.zeros((0, 4)), jnp.zeros(0, jnp.int32)).shape == (0,)
