"""Sampling without replacement: mmdetection's counts, fairness, edge cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops import sampling


@functools.cache
def sampler(count, fraction):
    return jax.jit(
        functools.partial(sampling.sample, count=count, positive_fraction=fraction)
    )


def sample(label, count, fraction, priority=None) -> sampling.Sample:
    label = jnp.asarray(label, jnp.int32)
    if priority is None:
        priority = sampling.first_priority(jax.random.key(0), len(label))
    found = sampler(count, fraction)(label, priority)
    return jax.tree.map(np.asarray, found)


COUNTS = range(9)  # rows of the recorded table


@pytest.mark.parametrize("row", COUNTS)
def test_counts_equal_the_peer(row, golden):
    """Ground truth boxes, where added, are positives like the others."""
    table = np.load(golden / "mmdet" / "c_assign.npz")["sampler_counts"]
    assert len(table) == len(COUNTS)
    num, permille, positives, negatives, add_gt, gts, *theirs = table[row].tolist()
    # One size for all rows, so that few programs compile; the rest is never taken.
    label = np.full(5500, -1)
    offered = positives + gts * add_gt
    label[:offered] = 1
    label[offered : offered + negatives] = 0
    assert offered + negatives <= len(label)
    found = sample(np.random.default_rng(row).permutation(label), num, permille / 1000)
    taken = int(found.positive.sum()), int((found.valid & ~found.positive).sum())
    assert [*taken, max(taken[0], 1) + max(taken[1], 1)] == theirs


def test_slots_on_paper():
    """Positives first, then negatives, each by priority; -1 is never taken."""
    label = [0, 1, -1, 1, 0, 1, 0]
    found = sample(label, 4, 0.5)
    assert found.index.tolist() == [1, 3, 0, 4]
    assert found.positive.tolist() == [True, True, False, False]
    assert found.valid.all()
    last = jnp.arange(7, dtype=jnp.float32)
    assert sample(label, 4, 0.5, last).index.tolist() == [5, 3, 6, 4]


def test_negatives_fill_up_and_positives_do_not():
    found = sample([1, 0, 0, 0, 0, 0], 4, 0.5)
    assert found.index.tolist() == [0, 1, 2, 3]
    assert found.positive.tolist() == [True, False, False, False]
    found = sample([1, 1, 1, 1, 1, 0], 4, 0.5)
    assert found.index[found.valid].tolist() == [0, 1, 5]
    assert found.valid.tolist() == [True, True, True, False]
    assert found.index[3] == 0


@pytest.mark.parametrize("label", ([1, 1, 1], [0, 0, 0], [-1, -1, -1]))
@pytest.mark.parametrize("fraction", (0.0, 0.5, 1.0))
def test_one_kind_only(label, fraction):
    found = sample(label, 2, fraction)
    kind = label[0]
    expected = {1: int(2 * fraction), 0: 2, -1: 0}[kind]
    assert found.valid.sum() == expected
    assert (found.positive == (found.valid & (kind == 1))).all()


def test_more_slots_than_candidates():
    """As many slots as candidates, all taken, the limit on positives in force."""
    found = sample([0, 1, 0], 100, 0.5)
    assert found.index.tolist() == [1, 0, 2] and found.valid.all()
    found = sample([1], 1, 0.25)  # int(0.25) = 0 positives
    assert found.valid.tolist() == [False]


def test_nothing_is_taken_twice(rng):
    for seed in range(20):
        label = rng.integers(-1, 2, 60)
        priority = sampling.random_priority(jax.random.key(seed), 60)
        found = sample(label, 24, 0.5, priority)
        taken = found.index[found.valid]
        assert len(set(taken.tolist())) == len(taken)
        assert (label[taken] == found.positive[found.valid]).all()
        assert found.positive.sum() == min(12, (label == 1).sum())


DRAWS, CANDIDATES, TAKEN = 6000, 20, 5


@pytest.fixture(scope="module")
def draws():
    """How often each of 20 positives and 20 negatives is among 5 + 5."""
    label = jnp.repeat(jnp.asarray([1, 0], jnp.int32), CANDIDATES)

    @jax.jit
    def draw(keys):
        def one(key):
            priority = sampling.random_priority(key, 2 * CANDIDATES)
            found = sampling.sample(
                label, priority, count=2 * TAKEN, positive_fraction=0.5
            )
            return jnp.zeros(2 * CANDIDATES, jnp.int32).at[found.index].add(1)

        return jax.vmap(one)(keys)

    return np.asarray(draw(jax.random.split(jax.random.key(7), DRAWS)))


@pytest.mark.parametrize("kind", (0, 1))
def test_every_candidate_is_as_likely(kind, draws):
    """Chi-square with 19 degrees of freedom: above 50 with probability 1e-4."""
    taken = draws[:, kind * CANDIDATES : (kind + 1) * CANDIDATES]
    assert (taken.sum(1) == TAKEN).all() and taken.max() == 1
    p = TAKEN / CANDIDATES
    variance = DRAWS * p * (1 - p) * CANDIDATES / (CANDIDATES - 1)
    assert ((taken.sum(0) - DRAWS * p) ** 2 / variance).sum() < 50


def test_every_pair_is_as_likely(draws):
    """Two neighbours are both drawn in p = 5/20 * 4/19 of the draws, +-4 sigma."""
    p = TAKEN / CANDIDATES * (TAKEN - 1) / (CANDIDATES - 1)
    together = (draws[:, :-1] * draws[:, 1:]).sum(0)
    together = np.delete(together, CANDIDATES - 1)  # a positive and a negative
    limit = 4 * np.sqrt(DRAWS * p * (1 - p))
    assert np.abs(together - DRAWS * p).max() < limit


def test_positives_and_negatives_are_drawn_independently(draws):
    """Both at place i with probability 1/16, +-4 sigma."""
    both = (draws[:, :CANDIDATES] * draws[:, CANDIDATES:]).sum(0)
    assert np.abs(both - DRAWS / 16).max() < 4 * np.sqrt(DRAWS / 16 * 15 / 16)


def test_random_priorities_are_positive_normal_numbers_without_ties():
    """Order has to survive hardware that flushes subnormal numbers to zero."""
    values = np.asarray(sampling.random_priority(jax.random.key(1), 20000))
    assert values.dtype == np.float32 and np.isfinite(values).all()
    assert values.min() >= np.finfo(np.float32).tiny
    assert len(set(values.tolist())) > 19990


def test_keys_decide():
    one, again, other = (
        np.asarray(sampling.random_priority(jax.random.key(k), 20000))
        for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).mean() > 0.99


def test_first_priority_takes_the_lowest_indices():
    values = sampling.first_priority(jax.random.key(3), 5)
    assert np.asarray(values).tolist() == [5, 4, 3, 2, 1]
