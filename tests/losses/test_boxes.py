"""Box losses: mmdetection's values and gradients, values on paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.losses import boxes
from frcnn_jax.losses.boxes import BOX_LOSSES

PEER_NAMES = {"iou": "iou", "giou": "giou", "bounded_iou": "biou"}


@pytest.fixture(scope="module")
def peer(golden):
    return np.load(golden / "mmdet" / "f_losses.npz")


def value_and_grad(name, pred, target):
    """Element-wise losses, and the gradient of their sum by the prediction."""
    loss = BOX_LOSSES[name].function

    @jax.jit
    def run(pred, target):
        value, pull = jax.vjp(lambda pred: loss(pred, target), pred)
        return value, pull(jnp.ones_like(value))[0]

    return run(jnp.asarray(pred, jnp.float32), jnp.asarray(target, jnp.float32))


@pytest.mark.parametrize("name", PEER_NAMES)
def test_values_and_gradients_equal_the_peer(name, peer):
    """The first rows: identical, apart, without area, inverted."""
    value, grad = value_and_grad(name, peer["el_pred"], peer["el_target"])
    theirs = peer[f"el_{PEER_NAMES[name]}"]
    theirs = theirs.sum(-1) if theirs.ndim == 2 else theirs  # it keeps x, y, w, h apart
    np.testing.assert_allclose(value, theirs, rtol=1e-5, atol=1e-5)
    theirs = peer[f"el_{PEER_NAMES[name]}_grad"]
    scale = np.maximum(np.abs(theirs).max(1, keepdims=True), 1e-3)
    np.testing.assert_allclose(grad / scale, theirs / scale, atol=1e-5)


def test_l1_sum_and_gradient_equal_the_peer(peer):
    """Weighted rows over 77."""
    weights = peer["rpn_box_weight"]
    assert (weights == weights[:, :1]).all()
    value, grad = value_and_grad("l1", peer["rpn_box_pred"], peer["rpn_box_target"])
    ours = (value * weights[:, 0]).sum() / 77
    np.testing.assert_allclose(ours, peer["rpn_box_loss"], rtol=1e-5)
    np.testing.assert_allclose(grad * weights / 77, peer["rpn_box_grad"], atol=1e-7)


def test_values_on_paper():
    """10 x 10 boxes shifted by half: IoU 1/3 = GIoU; apart by one side: GIoU -1/3."""
    pred, half, apart = [0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10]
    value, _ = value_and_grad("iou", [pred, pred], [half, pred])
    np.testing.assert_allclose(value, [np.log(3), 0], atol=1e-6)
    value, _ = value_and_grad("giou", [pred] * 3, [half, apart, pred])
    np.testing.assert_allclose(value, [2 / 3, 4 / 3, 0], atol=1e-6)
    value, grad = value_and_grad("l1", [[1, 2, 3, 4]], [[1, 0, 4, 4]])
    assert value.tolist() == [3]
    assert grad.tolist() == [[0, 1, -1, 0]]  # 0 at equality


def test_bounded_iou_on_paper():
    """Shift 2 of width 10: 1 - 6/14 = 4/7, beyond 0.2, so 4/7 - 0.1."""
    value, _ = value_and_grad("bounded_iou", [[2, 0, 12, 10]], [[0, 0, 10, 10]])
    np.testing.assert_allclose(value, [4 / 7 - 0.1], atol=1e-3)
    # Twice as wide about the same centre: 1 - 1/2, then 0.5 - 0.1.
    value, _ = value_and_grad("bounded_iou", [[-5, 0, 15, 10]], [[0, 0, 10, 10]])
    np.testing.assert_allclose(value, [0.4], atol=1e-3)


def test_smooth_l1_on_paper():
    """0.5 x^2 / beta below beta, |x| - beta / 2 from there; both 0.1 at 0.2."""
    found = boxes.smooth_l1(jnp.asarray([0.0, 0.1, -0.1, 0.2, -1.0]), 0.2)
    np.testing.assert_allclose(found, [0, 0.025, 0.025, 0.1, 0.9], rtol=1e-6)
    grad = jax.grad(lambda x: boxes.smooth_l1(x, 0.2).sum())
    found = grad(jnp.asarray([0.0, 0.1, -0.1, 0.3, -1.0]))
    np.testing.assert_allclose(found, [0, 0.5, -0.5, 1, -1], rtol=1e-6)


def random_boxes(rng, n):
    xy, wh = rng.uniform(0, 60, (n, 2)), rng.uniform(5, 60, (n, 2))
    return np.concatenate([xy, xy + wh], 1).astype(np.float32)


@pytest.mark.parametrize("name", PEER_NAMES)
def test_box_losses_do_not_change_with_scale(name, rng):
    """One is the ratio of areas or sides; epsilons are far below a pixel."""
    pred, target = random_boxes(rng, 30), random_boxes(rng, 30)
    value, _ = value_and_grad(name, pred, target)
    large, _ = value_and_grad(name, 4 * pred, 4 * target)
    np.testing.assert_allclose(value, large, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_losses_are_zero_at_the_target_and_positive_elsewhere(name, rng):
    pred, target = random_boxes(rng, 30), random_boxes(rng, 30)
    value, _ = value_and_grad(name, target, target)
    np.testing.assert_allclose(value, 0, atol=1e-5)
    value, _ = value_and_grad(name, pred, target)
    assert (np.asarray(value) > 0).all()


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_a_step_down_the_gradient_helps(name, rng):
    pred = random_boxes(rng, 30)
    target = pred + rng.uniform(-2, 2, pred.shape).astype(np.float32)
    value, grad = value_and_grad(name, pred, target)
    after, _ = value_and_grad(name, pred - 0.01 * grad, target)
    assert (np.asarray(after) < np.asarray(value)).all()


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_gradients_are_finite_for_boxes_without_area(name):
    odd = [[5, 5, 5, 5], [0, 5, 10, 5], [9, 9, 1, 1], [0, 0, 10, 10]]
    value, grad = value_and_grad(name, odd, odd[::-1])
    assert np.isfinite(np.asarray(value)).all()
    assert np.isfinite(np.asarray(grad)).all()


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_leading_axes_stay(name):
    pred, target = np.ones((2, 3, 4)), np.zeros((2, 3, 4))
    value, grad = value_and_grad(name, pred, target)
    assert value.shape == (2, 3) and grad.shape == (2, 3, 4)
    assert value.dtype == jnp.float32


def test_what_each_loss_compares():
    kinds = {name: loss.compares for name, loss in BOX_LOSSES.items()}
    assert kinds == {
        "l1": "deltas",
        "iou": "boxes",
        "giou": "boxes",
        "diou": "boxes",
        "ciou": "boxes",
        "bounded_iou": "boxes",
    }


def test_distance_iou_on_paper():
    """10 x 10 boxes shifted by 10: IoU 0, centres 10 apart, hull of 20 x 10."""
    value, _ = value_and_grad("diou", [[10, 0, 20, 10]], [[0, 0, 10, 10]])
    np.testing.assert_allclose(value, [1 + 100 / 500], rtol=1e-6)
    value, _ = value_and_grad("ciou", [[10, 0, 20, 10]], [[0, 0, 10, 10]])
    np.testing.assert_allclose(value, [1 + 100 / 500], rtol=1e-6)


def test_complete_iou_punishes_the_aspect_ratio():
    """12 x 10 in place of 10 x 10, same centre: IoU 5/6, and v = (4 / pi^2) d^2."""
    pred, target = [[-1, 0, 11, 10]], [[0, 0, 10, 10]]
    v = 4 / np.pi**2 * (np.arctan(1.0) - np.arctan(1.2)) ** 2
    value, _ = value_and_grad("ciou", pred, target)
    expected = 1 - 5 / 6 + v * v / (1 - 5 / 6 + v)
    np.testing.assert_allclose(value, [expected], rtol=1e-5)
    assert float(value[0]) > float(value_and_grad("diou", pred, target)[0][0])


def test_smooth_l1_is_chosen_with_its_beta():
    loss, compares = boxes.box_loss("smooth_l1", 0.5)
    assert compares == "deltas"
    zeros = jnp.zeros((1, 4))
    value = loss(zeros, jnp.asarray([[0.25, -0.5, 1.0, 0.0]]))
    np.testing.assert_allclose(value, [0.0625 + 0.25 + 0.75], rtol=1e-6)
    assert boxes.box_loss("giou", 0.0) is BOX_LOSSES["giou"]
