"""The check of a data set before anyone trains on it: files, boxes, numbers, repair."""
