"""Optimisation: it gets a `Detector` and batches and knows no model and no data set."""
