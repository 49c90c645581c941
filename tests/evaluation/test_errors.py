"""Each type of error on paper, and the rules that hold for any data."""

import copy
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax.evaluation import coco, curves, errors, matching

GOLDEN = Path(__file__).parents[1] / "golden" / "coco_eval.json"
CAT, DOG = 1, 2
BOX = (0, 0, 100, 100)
HALF = (0, 0, 100, 50)  # IoU 0.5 with BOX, the threshold itself
THIRD = (0, 0, 100, 30)  # 0.3
TENTH = (0, 0, 100, 10)  # 0.1, the threshold itself
SLIVER = (0, 0, 100, 9)  # 0.09
FAR = (300, 300, 50, 50)


def scene(*objects, crowds=()):
    rows = [(*one, 0) for one in objects] + [(*one, 1) for one in crowds]
    return {
        "images": [{"id": 7, "file_name": "seven.jpg"}],
        "categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}],
        "annotations": [
            {"id": k, "image_id": 7, "category_id": c, "bbox": list(b), "iscrowd": w}
            for k, (c, b, w) in enumerate(rows, 1)
        ],
    }


def analysed(truth, *found):
    """Counts of the types that occur, all costs and the types in order of score."""
    rows = [
        {"image_id": 7, "category_id": c, "bbox": list(b), "score": s}
        for c, b, s in found
    ]
    sets = matching.read(truth, rows)
    matches = matching.match(sets)
    typed = errors.classify(sets, matches)
    costs = errors.costs(sets, matches, typed)
    return {k: n for k, n in errors.counts(typed).items() if n}, costs, typed


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        ((DOG, BOX, 0.8), "classification"),
        ((DOG, HALF, 0.8), "classification"),
        ((CAT, THIRD, 0.8), "localisation"),
        ((CAT, TENTH, 0.8), "localisation"),
        ((DOG, THIRD, 0.8), "both"),
        ((DOG, TENTH, 0.8), "both"),
        ((CAT, HALF, 0.8), "duplicate"),
        ((CAT, SLIVER, 0.8), "background"),
        ((DOG, SLIVER, 0.8), "background"),
        ((CAT, FAR, 0.8), "background"),
    ],
)
def test_one_false_detection_beside_a_true_one(found, kind):
    counts, costs, _ = analysed(scene((CAT, BOX)), (CAT, BOX, 0.9), found)
    assert counts == {kind: 1}
    # It comes after the only object was found: AP50 is 1 with it or without.
    assert all(cost == pytest.approx(0) for cost in costs.values())


def test_a_found_object_is_no_error_and_a_lost_one_is_missed():
    truth = scene((CAT, BOX), (CAT, FAR))
    counts, costs, typed = analysed(truth, (CAT, HALF, 0.9))
    assert counts == {"missed": 1} and typed.missed.tolist() == [False, True]
    # 51 of 101 recalls are reached at precision 1; without the lost one all are.
    assert costs["missed"] == pytest.approx(1 - 51 / 101)


@pytest.mark.parametrize(
    ("kind", "false"),
    [("classification", (DOG, BOX, 0.9)), ("localisation", (CAT, THIRD, 0.9))],
)
def test_the_object_meant_is_not_missed_and_repair_finds_it(kind, false):
    counts, costs, _ = analysed(scene((CAT, BOX)), false)
    assert counts == {kind: 1}
    assert costs.pop(kind) == pytest.approx(1)
    assert all(cost == 0 for cost in costs.values())


@pytest.mark.parametrize("nearest_first", [True, False])
@pytest.mark.parametrize("label", [CAT, DOG])
def test_the_object_meant_is_the_nearest(label, nearest_first):
    # A dog overlaps both cats by more than 0.5, a cat half as high by less.
    near, far = (0, 0, 100, 90), (0, 0, 100, 120)
    objects = [(CAT, near), (CAT, far)][:: 1 if nearest_first else -1]
    box = (0, 0, 100, 80 if label == DOG else 40)
    _, _, typed = analysed(scene(*objects), (label, box, 0.9))
    assert typed.target.tolist() == [0 if nearest_first else 1]
    assert typed.missed.tolist() == [not nearest_first, nearest_first]


@pytest.mark.parametrize(
    ("kind", "false"),
    [("both", (DOG, THIRD, 0.9)), ("background", (CAT, FAR, 0.9))],
)
def test_removal_does_not_find_the_object(kind, false):
    truth = scene((CAT, BOX), (DOG, (0, 200, 100, 100)))
    found = ((DOG, (0, 200, 100, 100), 0.5), false)
    counts, costs, _ = analysed(truth, *found)
    assert counts == {kind: 1, "missed": 1}
    # both: the false dog stands before the true one, whose AP50 rises from 1/2 to 1
    assert costs[kind] == pytest.approx(0.25 if kind == "both" else 0)
    # missed: the cats leave the mean
    assert costs["missed"] == pytest.approx(0.25 if kind == "both" else 0.5)


def test_a_duplicate_before_another_hit_costs():
    truth = scene((CAT, BOX), (CAT, FAR))
    found = (CAT, BOX, 0.9), (CAT, HALF, 0.8), (CAT, FAR, 0.7)
    counts, costs, _ = analysed(truth, *found)
    assert counts == {"duplicate": 1}
    assert costs["duplicate"] == pytest.approx((1 - 2 / 3) * 50 / 101)


def test_the_best_score_keeps_the_object_when_two_are_repaired():
    # Both dogs become the cat; the one at 0.9 stays, also before the true cat at 0.5.
    truth = scene((CAT, BOX), (DOG, FAR))
    found = (DOG, BOX, 0.9), (DOG, HALF, 0.8), (CAT, BOX, 0.5), (DOG, FAR, 0.4)
    counts, costs, typed = analysed(truth, *found)
    assert counts == {"classification": 2} and typed.target.tolist() == [0, 0, -1, -1]
    assert costs["classification"] == pytest.approx(0.5 * (1 - 1 / 3))


def test_of_several_types_the_first_row_of_the_table_counts():
    near = scene((CAT, BOX), (DOG, HALF))
    counts, *_ = analysed(near, (CAT, BOX, 0.9), (DOG, HALF, 0.8), (CAT, HALF, 0.7))
    assert counts == {"duplicate": 1}  # classification too
    counts, *_ = analysed(scene((CAT, THIRD), (DOG, BOX)), (CAT, BOX, 0.9))
    assert counts == {"classification": 1, "missed": 1}  # localisation too
    counts, *_ = analysed(scene((CAT, BOX), (DOG, BOX)), (CAT, THIRD, 0.9))
    assert counts == {"localisation": 1, "missed": 1}  # both too


def test_crowds_cost_nothing_and_explain_nothing():
    truth = scene((CAT, FAR), crowds=[(CAT, BOX)])
    counts, costs, _ = analysed(truth, (CAT, THIRD, 0.9), (CAT, FAR, 0.5))
    assert counts == {} and set(costs.values()) == {0.0}
    counts, *_ = analysed(truth, (DOG, BOX, 0.9), (CAT, FAR, 0.5))
    assert counts == {"background": 1}


def test_nothing_found_and_nothing_to_find():
    counts, costs, _ = analysed(scene((CAT, BOX)))
    assert counts == {"missed": 1}
    # Without the missed object no class is left; every other repair changes nothing.
    assert costs == dict.fromkeys(errors.TYPES, 0.0) | {"missed": None}
    counts, costs, _ = analysed(scene(), (CAT, BOX, 0.9))
    assert counts == {"background": 1} and set(costs.values()) == {None}
    counts, costs, _ = analysed(scene())
    assert counts == {} and set(costs.values()) == {None}


def test_a_class_without_objects_can_be_mistaken():
    counts, costs, typed = analysed(scene((CAT, BOX)), (DOG, BOX, 0.9))
    assert counts == {"classification": 1} and costs["classification"] == pytest.approx(
        1
    )
    assert not typed.missed.any()


# ---- rules that hold for any data ---------------------------------------------------


def cases(random_case, coarse=True):
    stored = json.loads(GOLDEN.read_text())
    yield stored["ground_truth"], stored["detections"]
    for seed in range(12):
        yield random_case(seed, coarse)


def test_types_add_up_and_no_repair_harms(random_case):
    for cap in (4, 100):
        for truth, found in cases(random_case):
            sets = matching.read(truth, found, cap)
            matches = matching.match(sets)
            typed = errors.classify(sets, matches)
            counts = errors.counts(typed)
            false = int((matches.counted & ~matches.true).sum())
            lost = int(matches.objects.sum() - matches.true.sum())
            assert sum(counts.values()) - counts["missed"] == false
            assert counts["missed"] + len(meant(typed, matches)) == lost
            table = errors.class_counts(sets, typed)
            assert table.sum(0).tolist() == list(counts.values())
            costs = errors.costs(sets, matches, typed)
            assert min(costs.values()) >= 0


def meant(typed, matches):
    """Objects not found that a false class or box means."""
    found = set(matches.object[matches.true].tolist())
    return set(typed.target[typed.target >= 0].tolist()) - found


def test_costs_are_what_pycocotools_gives_for_repaired_data(random_case):
    # Repaired by hand: dictionaries changed, and the metric asked again.
    for truth, found in cases(random_case, coarse=False):
        found = within_cap(found)
        sets = matching.read(truth, found)
        matches = matching.match(sets)
        typed = errors.classify(sets, matches)
        costs = errors.costs(sets, matches, typed)
        before = coco.evaluate(truth, found)["AP50"]
        ordered = sorted(truth["annotations"], key=lambda a: a["image_id"])
        for kind, name in enumerate(errors.TYPES):
            objects, kept = copy.deepcopy(ordered), copy.deepcopy(found)
            if name == "missed":
                lost = np.flatnonzero(typed.missed).tolist()
                objects = [a for k, a in enumerate(objects) if k not in lost]
            elif name in ("classification", "localisation"):
                kept = repaired(kept, objects, matches, typed, kind)
            else:
                kept = [r for k, r in enumerate(kept) if typed.type[k] != kind]
            changed = truth | {"annotations": objects}
            after = coco.evaluate(changed, kept)["AP50"]
            assert costs[name] == pytest.approx(after - before, abs=1e-12), name


def within_cap(rows, cap=100):
    """Rows by image, best first, and at most `cap` of each image and class."""
    kept, seen = [], Counter()
    for row in sorted(rows, key=lambda r: (r["image_id"], -r["score"])):
        seen[row["image_id"], row["category_id"]] += 1
        if seen[row["image_id"], row["category_id"]] <= cap:
            kept.append(row)
    return kept


def repaired(rows, objects, matches, typed, kind):
    """Rows of one type put on the object they mean, the best one for each object."""
    claims = {}
    for k, row in enumerate(rows):
        fixed = typed.type[k] == kind
        if fixed or matches.true[k]:
            one = int(typed.target[k] if fixed else matches.object[k])
            claims.setdefault(one, []).append((-row["score"], k))
    gone = set()
    for one, own in claims.items():
        (_, best), *rest = sorted(own)
        gone |= {k for _, k in rest}
        if typed.type[best] == kind:
            rows[best]["category_id"] = objects[one]["category_id"]
            rows[best]["bbox"] = objects[one]["bbox"]
    return [row for k, row in enumerate(rows) if k not in gone]


def test_perfect_detections_have_no_errors():
    truth = json.loads(GOLDEN.read_text())["ground_truth"]
    perfect = [
        {**{key: a[key] for key in ("image_id", "category_id", "bbox")}, "score": 1.0}
        for a in truth["annotations"]
        if not a["iscrowd"]
    ]
    sets = matching.read(truth, perfect)
    matches = matching.match(sets)
    typed = errors.classify(sets, matches)
    assert sum(errors.counts(typed).values()) == 0
    assert set(errors.costs(sets, matches, typed).values()) == {0.0}
    ap = curves.average_precision(curves.ranking(sets, matches))
    assert curves.mean(ap) == pytest.approx(1)
