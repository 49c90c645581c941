import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from frcnn_jax import config
from frcnn_jax.training import optimizer, schedule

PARAMS = {
    "backbone": {
        "stem": {"conv": {"kernel": jnp.arange(6.0).reshape(2, 3)}},
        "layer2": {"norm": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}},
    },
    "box_head": {"fc1": {"kernel": jnp.full((3, 2), 0.5), "bias": jnp.zeros(2)}},
}
PATHS = {
    "backbone/stem/conv/kernel",
    "backbone/layer2/norm/scale",
    "backbone/layer2/norm/bias",
    "box_head/fc1/kernel",
    "box_head/fc1/bias",
}


# ---- which parameters learn


def test_nothing_frozen():
    trainable, frozen = optimizer.split(PARAMS, ())
    assert set(trainable) == PATHS and frozen == {}


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        (("backbone/stem/.*",), {"backbone/stem/conv/kernel"}),
        ((".*/bias",), {"backbone/layer2/norm/bias", "box_head/fc1/bias"}),
        (
            ("backbone/(stem|layer1)/.*", "box_head/fc1/kernel"),
            {"backbone/stem/conv/kernel", "box_head/fc1/kernel"},
        ),
        (
            ("backbone/.*norm.*",),
            {"backbone/layer2/norm/scale", "backbone/layer2/norm/bias"},
        ),
    ],
)
def test_patterns_match_whole_paths(freeze, expected):
    trainable, frozen = optimizer.split(PARAMS, freeze)
    assert set(frozen) == expected and set(trainable) == PATHS - expected


def test_split_and_join_are_inverse():
    trainable, frozen = optimizer.split(PARAMS, (".*/kernel",))
    joined = optimizer.join(trainable, frozen)
    assert jax.tree.structure(joined) == jax.tree.structure(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, joined, PARAMS)


@pytest.mark.parametrize("pattern", ["stem", "backbone/stem", "backbone/layer9/.*"])
def test_a_pattern_without_a_match_is_an_error(pattern):
    with pytest.raises(ValueError, match="matches no parameter") as caught:
        optimizer.split(PARAMS, ("box_head/.*", pattern))
    assert repr(pattern) in str(caught.value)
    assert "the nearest are backbone/" in str(caught.value)


def test_freezing_everything_is_an_error():
    with pytest.raises(ValueError, match="leaves nothing to train"):
        optimizer.split(PARAMS, ("backbone/.*", "box_head/.*"))


# ---- how they learn


def torch_sgd(params, gradients, rates, train: config.Train):
    """torch.optim.SGD after clip_grad_norm_, in numpy float64, over several steps."""
    params = {name: value.astype(np.float64) for name, value in params.items()}
    velocity = {name: np.zeros_like(value) for name, value in params.items()}
    for gradient, rate in zip(gradients, rates, strict=True):
        norm = np.sqrt(
            sum((g.astype(np.float64) ** 2).sum() for g in gradient.values())
        )
        scale = min(1.0, train.clip_norm / norm) if train.clip_norm else 1.0
        for name in params:
            step = scale * gradient[name] + train.weight_decay * params[name]
            velocity[name] = train.momentum * velocity[name] + step
            params[name] = params[name] - rate * velocity[name]
    return params


@pytest.mark.parametrize(
    ("momentum", "decay", "clip"),
    list(itertools.product((0.0, 0.9), (0.0, 0.1), (0.0, 2.0))),
)
def test_sgd_equals_torchs(rng, momentum, decay, clip):
    train = config.Train(
        lr=0.1,
        lr_batch_size=0,
        momentum=momentum,
        weight_decay=decay,
        clip_norm=clip,
        warmup_steps=4,
    )
    start = {
        "fc/kernel": rng.normal(size=(4, 3)).astype(np.float32),
        "fc/bias": rng.normal(size=3).astype(np.float32),
    }
    sizes = (0.01, 3.0, 1.0, 0.2, 5.0, 0.5)  # some are clipped, some are not
    gradients = [
        {k: (s * rng.normal(size=v.shape)).astype(np.float32) for k, v in start.items()}
        for s in sizes
    ]
    rate = schedule.learning_rate(train, (5,))
    expected = torch_sgd(start, gradients, [float(rate(i)) for i in range(6)], train)
    tx, params = optimizer.make(train, rate), start
    state = tx.init(params)
    for gradient in gradients:
        changes, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, changes)
    for name in start:
        np.testing.assert_allclose(params[name], expected[name], rtol=2e-5, atol=1e-6)


def test_decay_acts_on_biases_too():
    train = config.Train(weight_decay=0.5, momentum=0.0)
    tx = optimizer.make(train, lambda step: 1.0)
    params = {"fc/bias": jnp.float32(2.0)}
    changes, _ = tx.update({"fc/bias": jnp.float32(0.0)}, tx.init(params), params)
    assert changes["fc/bias"] == -1.0


def torch_adamw(params, gradients, rates, train: config.Train, decayed):
    """torch.optim.AdamW in numpy float64, over several steps."""
    params = {name: value.astype(np.float64) for name, value in params.items()}
    first = {name: np.zeros_like(value) for name, value in params.items()}
    second = {name: np.zeros_like(value) for name, value in params.items()}
    (b1, b2), count = train.betas, 0
    for gradient, rate in zip(gradients, rates, strict=True):
        count += 1
        for name, g in gradient.items():
            if name in decayed:
                params[name] = params[name] * (1 - rate * train.weight_decay)
            first[name] = b1 * first[name] + (1 - b1) * g
            second[name] = b2 * second[name] + (1 - b2) * g.astype(np.float64) ** 2
            deviation = np.sqrt(second[name] / (1 - b2**count)) + 1e-8
            params[name] = params[name] - rate * first[name] / (1 - b1**count) / (
                deviation
            )
    return params


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("no_decay", [(), (".*norm.*",)])
def test_adamw_equals_torchs(rng, decay, no_decay):
    train = config.Train(
        optimizer="adamw",
        lr=0.01,
        lr_batch_size=0,
        betas=(0.8, 0.95),
        weight_decay=decay,
        no_decay=no_decay,
        warmup_steps=3,
    )
    start = {
        "fc/kernel": rng.normal(size=(4, 3)).astype(np.float32),
        "norm1/scale": rng.normal(size=3).astype(np.float32),
    }
    gradients = [
        {k: (s * rng.normal(size=v.shape)).astype(np.float32) for k, v in start.items()}
        for s in (1e-9, 1.0, 100.0, 0.1, 3.0)
    ]
    rate = schedule.learning_rate(train, (4,))
    rates = [float(rate(i)) for i in range(5)]
    decayed = {"fc/kernel"} if no_decay else set(start)
    expected = torch_adamw(start, gradients, rates, train, decayed)
    tx, params = optimizer.make(train, rate), start
    state = tx.init(params)
    for gradient in gradients:
        changes, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, changes)
    for name in start:
        np.testing.assert_allclose(params[name], expected[name], rtol=2e-5, atol=1e-6)


FLAT = {
    "backbone/layer2/block0/norm1/bias": jnp.float32(1.0),
    "backbone/layer2/block0/shortcut_norm/bias": jnp.float32(1.0),
    "rpn/conv/bias": jnp.float32(1.0),
    "rpn/conv/kernel": jnp.float32(1.0),
    "fc1/bias": jnp.float32(1.0),
}


def test_biases_of_layers_learn_faster_and_those_of_norms_do_not():
    """jwyang's VGG-16: doubled rate, no decay."""
    train = config.Train(
        bias_rate=2.0, weight_decay=0.5, momentum=0.5, no_decay=(".*/bias",)
    )
    tx, gradient = optimizer.make(train, lambda step: 1.0), dict.fromkeys(FLAT, 1.0)
    changes, state = tx.update(gradient, tx.init(FLAT), FLAT)
    again, _ = tx.update(gradient, state, FLAT)
    first = {name: float(value) for name, value in changes.items()}
    assert first == {
        "backbone/layer2/block0/norm1/bias": -1.0,
        "backbone/layer2/block0/shortcut_norm/bias": -1.0,
        "rpn/conv/bias": -2.0,
        "rpn/conv/kernel": -1.5,
        "fc1/bias": -2.0,
    }
    assert again["rpn/conv/bias"] == -3.0  # the momentum is not doubled twice


def test_an_undecayed_pattern_without_a_match_names_the_nearest():
    train = config.Train(no_decay=(".*norm.*", "rpn/convs/bias"))
    with pytest.raises(ValueError) as caught:
        optimizer.make(train, lambda step: 1.0).init(FLAT)
    message = str(caught.value)
    assert message.startswith("train.no_decay pattern 'rpn/convs/bias' matches no")
    assert "the nearest are rpn/conv/bias" in message


def test_sgds_state_has_the_form_that_older_checkpoints_have():
    """Fields added since must not change it while they are off."""
    state = optimizer.make(config.Train(), lambda step: 1.0).init(FLAT)
    kinds = [type(part).__name__ for part in state]
    assert kinds == ["EmptyState", "TraceState", "ScaleByScheduleState"]
