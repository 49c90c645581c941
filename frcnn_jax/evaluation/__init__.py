"""Scoring: detections of a whole data set against its ground truth."""
