"""The mechanism: patterns, strictness, both directions. Small arrays made by hand."""

import numpy as np
import pytest

from frcnn_jax.convert import layouts, rules
from frcnn_jax.convert.rules import ConversionError, Rule

TABLE = (
    *rules.conv("net.{block}.conv", "net/block{block}/conv", bias=False),
    *rules.batch_norm("net.{block}.bn", "net/block{block}/norm"),
    *rules.dense("head.{fc}", "head/fc{fc+1}"),
    Rule("old.weight", "", layouts.CLASSIFIER),
)


def numbers(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def state(block=0):
    norm = {
        f"net.{block}.bn.{leaf}": numbers(2) + i
        for i, leaf in enumerate(("weight", "bias", "running_mean", "running_var"))
    }
    return {
        f"net.{block}.conv.weight": numbers(2, 3, 1, 5),
        **norm,
        f"net.{block}.bn.num_batches_tracked": np.array(7, np.int64),
        "head.0.weight": numbers(4, 2),
        "head.0.bias": numbers(4),
    }


def test_paths_and_shapes():
    converted = rules.convert(state(block=12), TABLE)
    assert {path: a.shape for path, a in converted.variables.items()} == {
        "params/net/block12/conv/kernel": (1, 5, 3, 2),
        "params/net/block12/norm/scale": (2,),
        "params/net/block12/norm/bias": (2,),
        "batch_stats/net/block12/norm/mean": (2,),
        "batch_stats/net/block12/norm/var": (2,),
        "params/head/fc1/kernel": (2, 4),
        "params/head/fc1/bias": (4,),
    }
    assert list(converted.unused) == ["net.12.bn.num_batches_tracked"]
    assert "1 arrays, step counters" in converted.notes()[0]


def test_back_to_the_same_bits_with_counters_at_zero():
    there = rules.convert(state(), TABLE).variables
    back = rules.invert(there, TABLE)
    assert back["net.0.bn.num_batches_tracked"].dtype == np.int64
    expected = {**state(), "net.0.bn.num_batches_tracked": np.array(0, np.int64)}
    assert set(back) == set(expected)
    for name, array in expected.items():
        assert back[name].shape == array.shape and back[name].dtype == array.dtype
        assert back[name].tobytes() == array.tobytes(), name


def test_dropped_and_noted_names_are_reported():
    extra = {"old.weight": numbers(3), "__seed": np.array(3)}
    converted = rules.convert({**state(), **extra}, TABLE)
    assert converted.unused["old.weight"] == "the classification layer"
    assert converted.unused["__seed"] == "notes beside the weights"
    assert len(converted.notes()) == 3


def test_empty_both_ways():
    assert rules.convert({}, TABLE) == ({}, {})
    assert rules.invert({}, TABLE) == {}


@pytest.mark.parametrize("name", ["net.01.conv.weight", "net.-1.conv.weight", "netX0"])
def test_numbers_are_written_one_way_only(name):
    with pytest.raises(ConversionError, match="explained by no rule"):
        rules.convert({name: numbers(1, 1, 1, 1)}, TABLE)


def test_offset_field_has_no_negative_side():
    arrays = {"params/head/fc0/kernel": numbers(2, 2), "params/head/fc0/bias": [0, 0]}
    with pytest.raises(ConversionError, match="params/head/fc0/kernel"):
        rules.invert(arrays, TABLE)


def test_error_lists_leftovers_missing_and_shapes_together():
    broken = state()
    broken["net.0.conv.weight"] = numbers(2, 3)
    del broken["net.0.bn.running_var"]
    broken["neck.weight"] = numbers(6, 1)
    broken["neck.bias"] = numbers(6)
    with pytest.raises(ConversionError) as error:
        rules.convert(broken, TABLE)
    text = str(error.value)
    assert "explained by no rule (2):" in text
    assert "neck.weight (6, 1)" in text and "neck.bias (6,)" in text
    assert "batch_stats/net/block0/norm/var (from net.0.bn.running_var)" in text
    assert "net.0.conv.weight -> params/net/block0/conv/kernel" in text
    assert "expected 4 axes, found shape (2, 3)" in text


def test_inverse_is_strict_too():
    ours = rules.convert(state(), TABLE).variables
    del ours["params/head/fc1/bias"]
    ours["params/neck/kernel"] = numbers(6)
    ours["params/net/block0/norm/scale"] = numbers(2, 2)
    with pytest.raises(ConversionError) as error:
        rules.invert(ours, TABLE)
    text = str(error.value)
    assert "params/neck/kernel (6,)" in text
    assert "head.0.bias (from params/head/fc1/bias)" in text
    assert "params/net/block0/norm/scale -> net.0.bn.weight" in text


def test_two_names_for_one_path_are_refused():
    table = (
        Rule("a", "params/x", layouts.VECTOR),
        Rule("b", "params/x", layouts.VECTOR),
    )
    with pytest.raises(ConversionError, match="another name already became params/x"):
        rules.convert({"a": numbers(1), "b": numbers(1)}, table)


def test_first_rule_wins_in_both_directions():
    special = rules.dense("head.0", "head/fc1", kernel=layouts.DENSE_BACKGROUND_LAST)
    table = (*special, *TABLE)
    arrays = {"head.0.weight": numbers(3, 1), "head.0.bias": numbers(3)}
    ours = rules.convert(arrays, table).variables
    assert ours["params/head/fc1/kernel"].tolist() == [[2, 0, 1]]
    assert rules.invert(ours, table)["head.0.weight"].tolist() == [[0], [1], [2]]
