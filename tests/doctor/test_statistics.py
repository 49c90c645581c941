import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.data.records import Dataset, Record
from frcnn_jax.doctor import statistics


def dataset(*boxes, w=100, h=100):
    rows = tuple(
        Record("a.png", i, w, h, np.array(b, np.float32).reshape(-1, 4),
               np.ones(len(b), np.int32), np.zeros(len(b), bool))
        for i, b in enumerate(boxes)
    )  # fmt: skip
    return Dataset("train", rows, ("cat", "dog"), (1, 2), {}, {})


def test_numbers_by_hand():
    run = config.Run()
    run.data.short_sides = (200, 400, 300)
    found = statistics.of(dataset([[0, 0, 10, 40], [0, 0, 40, 10]], []), run)
    assert found.per_image.tolist() == [2, 0] and found.per_class.tolist() == [2, 0]
    np.testing.assert_allclose(found.side, 20)
    assert [at.short_side for at in found.at] == [200, 400]
    np.testing.assert_allclose(found.at[1].side, 80)
    np.testing.assert_allclose(found.at[0].ratio, [4, 0.25])
    np.testing.assert_allclose(found.at[0].factor, 2)
    assert 0 <= found.at[0].recall(0.7) <= found.at[0].recall(0.5) <= 1


def test_crowds_are_no_objects():
    whole = dataset([[0, 0, 10, 10]] * 3)
    crowd = whole.records[0]._replace(crowd=np.array([True, False, False]))
    found = statistics.of(
        Dataset("t", (crowd,), ("cat", "dog"), (1, 2), {}, {}), config.Run()
    )
    assert (found.crowds, len(found.side), found.per_image.tolist()) == (1, 2, [2])


def test_shares_by_cocos_bounds():
    shares = statistics.shares(np.array([31.9, 32, 95.9, 96, 500]))
    assert shares == pytest.approx((0.2, 0.4, 0.4))
    assert np.isnan(statistics.shares(np.zeros(0))).all()


def test_a_set_without_objects():
    found = statistics.of(dataset([]), config.Run())
    assert np.isnan(found.at[0].recall(0.5)) and len(found.side) == 0
