"""What the numbers suggest: sentences with the figure and the field to set."""

from collections.abc import Iterator, Sequence

import numpy as np

from frcnn_jax import config
from frcnn_jax.doctor.statistics import AtSide, Statistics

POOR = 0.9  # recall of the anchors at IoU 0.5 below which they are a subject
NEVER = 0.01  # share of objects that no anchor can learn, likewise
TINY, MANY = 8.0, 0.05  # network pixels, and the share of objects below that matter
UNEVEN = 10  # times as many objects of one class as of another
ENLARGED = 1.5


def lines(
    run: config.Run, splits: Sequence[Statistics], known: Sequence[str]
) -> Iterator[str]:
    """Yield advice; the first split is the one trained on."""
    for field in ("train", "val"):
        name = getattr(run.data, field)
        if not there(name, known) and (field == "train" or len(known) > 1):
            yield (
                f"data.{field} is {name!r}, which is not there: set it to one of"
                f" {', '.join(known)}"
            )
    if not splits:
        return
    train = splits[0]
    if not len(train.side):
        yield f"{train.name} holds no object: there is nothing to train on"
        return
    anchors = list(of_anchors(run, train.at[-1]))
    yield from anchors
    yield from _sizes(train, fitting=not anchors)
    yield from _classes(train)


def there(name: str, known: Sequence[str]) -> bool:
    """Say whether a split, part "train[:9%]" or sum "a+b" of splits is there."""
    return all(part.split("[")[0] in known for part in name.split("+"))


def of_anchors(run: config.Run, at: AtSide) -> Iterator[str]:
    """Yield a sentence where the anchors miss too many of the objects."""
    rpn = run.model.rpn
    enough = max(0.5, rpn.min_positive_iou)
    bad = at.best_iou < enough
    never = float((at.best_iou < rpn.min_positive_iou).mean())
    if bad.mean() <= 1 - POOR and never < NEVER:
        return
    low, high = min(map(min, rpn.anchor_sizes)), max(map(max, rpn.anchor_sizes))
    flat, tall = min(rpn.anchor_ratios), max(rpn.anchor_ratios)
    small, large = (at.side[bad] < low).mean(), (at.side[bad] > high).mean()
    odd = ((at.ratio[bad] < flat) | (at.ratio[bad] > tall)).mean()
    yield (
        f"at short side {at.short_side}, {bad.mean():.1%} of the objects have no anchor"
        f" of IoU {enough:g}, and {never:.1%} none of {rpn.min_positive_iou:g}, which"
        f" the RPN never learns. Of the former {small:.0%} are smaller than the"
        f" smallest anchor ({low:g}), {large:.0%} larger than the largest ({high:g}),"
        f" {odd:.0%} of a height / width beyond {flat:g}..{tall:g}. Consider"
        f" {_remedy(small, large, odd)}"
    )


def _remedy(small: float, large: float, odd: float) -> str:
    if max(small, large, odd) == odd:
        return "model.rpn.anchor_ratios that reach further"
    if large > small:
        return "larger model.rpn.anchor_sizes"
    return "smaller model.rpn.anchor_sizes, or larger data.short_sides"


def _sizes(train: Statistics, *, fitting: bool) -> Iterator[str]:
    at = train.at[-1]
    few = float((at.side < TINY).mean())
    if few > MANY:
        yield (
            f"{few:.0%} of the objects are under {TINY:g} pixels (sqrt of area) even at"
            f" short side {at.short_side}: larger data.short_sides show more of them"
        )
    factor = float(np.median(at.factor))
    if factor > ENLARGED and fitting:
        side = int(np.median(train.sizes.min(1)))
        yield (
            f"pictures are enlarged {factor:.1f} times (median): short sides of {side}"
            " (data.short_sides, data.eval_short_side) cost"
            f" {1 / factor**2:.0%} of the work, and show smaller objects"
        )


def _classes(train: Statistics) -> Iterator[str]:
    counts = train.per_class
    none = [n for n, c in zip(train.class_names, counts, strict=True) if not c]
    if none:
        listed = ", ".join(none[:10]) + (", ..." if len(none) > 10 else "")
        yield f"{len(none)} classes have no object in {train.name}: {listed}"
    seen = np.flatnonzero(counts)
    most, least = seen[counts[seen].argmax()], seen[counts[seen].argmin()]
    if counts[most] > UNEVEN * counts[least]:
        names = train.class_names
        yield (
            f"classes are uneven: {names[most]} has {counts[most]} objects,"
            f" {names[least]} {counts[least]}; read the AP of each class, not only the"
            " mean"
        )
