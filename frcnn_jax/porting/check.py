"""One look at weights: their figures, what is odd, and a prediction on a drawing."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from frcnn_jax import build
from frcnn_jax.convert import health
from frcnn_jax.data import batching, shapes
from frcnn_jax.porting.source import Source
from frcnn_jax.types import Batch, Detections

SIDE = 256  # of the drawing, about


def report(source: Source) -> list[str]:
    """Printable lines."""
    odd = health.oddities(source.variables, source.run.model.pixel_std)
    found = predict(source)
    scores = np.asarray(found.scores[0])[np.asarray(found.labels[0]) > 0]
    finite = all(np.isfinite(np.asarray(part)).all() for part in found[:2])
    if not finite:
        odd.append("a prediction with NaN or infinity")
    best = f", best score {scores.max():.3g}" if scores.size else ""
    return [
        *health.table(source.variables),
        f"prediction on a drawing: {scores.size} detections{best}",
        *(f"odd: {line}" for line in odd or ["nothing"]),
    ]


def predict(source: Source) -> Detections:
    """Detections on one drawn image."""
    image = shapes.scene(np.random.default_rng(0), (SIDE, SIDE)).image
    height, width = (-(-side // 64) * 64 for side in image.shape[:2])
    arrays = batching.collate([None], (height, width), 1)
    arrays["images"][0, : image.shape[0], : image.shape[1]] = image
    arrays["image_hw"][0] = image.shape[:2]
    batch = Batch(**{name: jnp.asarray(value) for name, value in arrays.items()})
    nested = traverse_util.unflatten_dict(source.variables, sep="/")
    nested = jax.tree.map(jnp.asarray, nested)
    return jax.jit(build.detector(source.run.model).predict)(nested, batch)
