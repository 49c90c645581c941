"""Faster R-CNN in JAX: trained, scored and converted with the peers' numbers."""

from typing import Any

from frcnn_jax.version import __version__

__all__ = ["Predictor", "__version__"]


def __getattr__(name: str) -> Any:
    # On first use: JAX takes a second to import, and configurations do without it.
    if name == "Predictor":
        from frcnn_jax.prediction.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
