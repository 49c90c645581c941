"""A detector of seven numbers, for rails that know only its three functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.types import Detections, Detector

BATCH = 8


def init(key, batch):
    del batch
    trunk = {"kernel": jax.random.normal(key, (3,)), "bias": jnp.zeros(())}
    head = {"kernel": jnp.ones(2), "bias": jnp.zeros(())}
    stats = {"trunk": {"mean": jnp.zeros(3)}}
    return {"params": {"trunk": trunk, "head": head}, "batch_stats": stats}


def loss(variables, batch, key, axis_name=None):
    """Squared error of the number of boxes, with a little noise per image."""
    params = variables["params"]
    colour = batch.images.astype(jnp.float32).mean((1, 2)) / 255.0
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(batch.image_id)
    noise = jax.vmap(jax.random.normal)(keys)
    inner = colour @ params["trunk"]["kernel"] + params["trunk"]["bias"]
    both = jnp.stack([inner, inner**2], -1) @ params["head"]["kernel"]
    error = both + params["head"]["bias"] + 0.01 * noise - (batch.labels > 0).sum(1)
    total, count = colour.sum(0), jnp.float32(len(error))
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    value = (error**2).sum() / count
    mean = 0.9 * variables["batch_stats"]["trunk"]["mean"] + 0.1 * total / count
    terms = ("loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox")
    metrics = dict.fromkeys(terms, value / 4)
    return value, (metrics, {"batch_stats": {"trunk": {"mean": mean}}})


def predict(variables, batch):
    """The ground truth, scored by how red the image is."""
    red = batch.images[..., 0].astype(jnp.float32).mean((1, 2)) / 255.0
    scores = jnp.where(batch.labels > 0, red[:, None], 0.0)
    scores = scores * variables["params"]["head"]["kernel"][0]
    boxes = batch.boxes / jnp.tile(batch.scale_xy, (1, 2))[:, None]
    return Detections(boxes, scores, batch.labels)


@pytest.fixture
def linear() -> Detector:
    return Detector(init, loss, predict)


def arrays(step: int) -> dict[str, np.ndarray]:
    """A batch of 8 images of one colour each, with 0 to 3 boxes."""
    rng = np.random.default_rng(step)
    colours = rng.integers(0, 256, (BATCH, 1, 1, 3)).astype(np.uint8)
    labels = (np.arange(4) < rng.integers(0, 4, (BATCH, 1))).astype(np.int32)
    return {
        "images": np.tile(colours, (1, 4, 6, 1)),
        "image_hw": np.tile(np.float32([4, 6]), (BATCH, 1)),
        "scale_xy": np.ones((BATCH, 2), np.float32),
        "boxes": np.tile(np.float32([0, 0, 2, 3]), (BATCH, 4, 1)),
        "labels": labels,
        "crowd": np.zeros((BATCH, 4), bool),
        "image_id": rng.permutation(100)[:BATCH].astype(np.int32),
    }


@pytest.fixture
def arrays_of():
    """Step -> arrays of its batch."""
    return arrays
