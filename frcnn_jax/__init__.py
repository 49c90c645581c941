"""Faster R-CNN in JAX: trained, scored and converted with the peers' numbers."""

__version__ = "0.1.0"
