"""Where networks, ops and losses meet.

The stages are written for one image; `faster_rcnn.make` maps them over the batch, once.
"""
