"""Which class is taken for which: the confusion matrix of a detector.

The rule, as there is no standard one: detections from a score on, best first; each
takes a free object that it overlaps by IoU 0.5 or more, one of its own class before
others, then the one it overlaps most. A detection without an object goes to the row
"background", an object without a detection to the column. Crowds, and detections that
lie on a crowd of their class, are left out. numpy only.
"""

import numpy as np

from frcnn_jax.evaluation import matching


def matrix(
    sets: matching.Sets, score: float = 0.5, iou: float = matching.FOREGROUND
) -> np.ndarray:
    """Count true classes (rows) against detected ones (columns): [C + 1, C + 1] int.

    The last row and column are background. `score` is the lowest that takes part, `iou`
    at least `matching.BACKGROUND`. Row sums but the last are the objects of a class.
    """
    objects, found, pairs = sets.objects, sets.found, sets.pairs
    sure = found.score >= score
    close = (pairs.iou >= iou) & sure[pairs.detection]
    use = np.flatnonzero(close)
    crowd = objects.crowd[pairs.object[use]]
    order = (-pairs.object[use], -pairs.iou[use], crowd, ~pairs.own[use])
    use = use[np.lexsort((*order, pairs.detection[use]))]
    taken = matching.greedy(sets, use)
    background = len(sets.names)
    truth = np.append(objects.label, background)[taken]
    counted = sure & ~np.append(objects.crowd, False)[taken]
    lost = ~objects.crowd
    lost[taken[counted & (taken >= 0)]] = False
    table = np.zeros((background + 1, background + 1), int)
    np.add.at(table, (truth[counted], found.label[counted]), 1)
    np.add.at(table, (objects.label[lost], background), 1)
    return table
