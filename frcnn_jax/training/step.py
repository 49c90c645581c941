"""One training step and one prediction step over all devices.

Both are a single SPMD program: `jax.shard_map` over the mesh axis "data" under `jit`.
The batch is split over the axis, parameters are on every device. Losses are divided by
counts over the global batch, so 1, 2 or 8 devices take the same step.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from frcnn_jax.training import loss_scale, optimizer
from frcnn_jax.training.state import TrainState
from frcnn_jax.types import Batch, Detections, Detector, Variables

AXIS = "data"


def make_train_step(
    detector: Detector,
    tx: optax.GradientTransformation,
    freeze: tuple[str, ...],
    mesh: Mesh,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """`step(state, batch, key) -> (state, metrics)`; the old state is used up.

    `key` is the run's key; the step number is folded in here. Metrics are scalars over
    the global batch. Only trainable parameters are differentiated, so nothing is
    computed backwards below the frozen stages. A step whose loss or global gradient is
    not finite changes nothing but the step number, the count of such steps and the loss
    scale, if there is one; "finite" among the metrics says so.
    """

    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(), P(), P(), P(AXIS), P(), P()),
        out_specs=P(),
        check_vma=False,
    )
    def gradients(trainable, frozen, collections, batch, key, scale):
        def loss(trainable):
            params = optimizer.join(trainable, frozen)
            variables = {**collections, "params": params}
            total, (metrics, updates) = detector.loss(variables, batch, key, AXIS)
            metrics = {"loss": total, **metrics}
            return loss_scale.scaled(total, scale), (metrics, updates)

        grads, (metrics, updates) = jax.grad(loss, has_aux=True)(trainable)
        grads, metrics = jax.lax.psum((grads, metrics), AXIS)
        return loss_scale.unscaled(grads, scale), metrics, updates

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: Batch, key: jax.Array):
        trainable, frozen = optimizer.split(state.variables["params"], freeze)
        collections = {k: v for k, v in state.variables.items() if k != "params"}
        key = jax.random.fold_in(key, state.step)
        grads, metrics, updates = gradients(
            trainable, frozen, collections, batch, key, state.loss_scale
        )
        changes, opt_state = tx.update(grads, state.opt_state, trainable)
        params = optimizer.join(optax.apply_updates(trainable, changes), frozen)
        variables = {**collections, **updates, "params": params}
        metrics["grad_norm"] = optax.tree.norm(grads)
        return _settled(state, variables, opt_state, metrics)

    return step


def _settled(before: TrainState, variables: Variables, opt_state, metrics: dict):
    """The state with these if all was finite, else with the old ones."""
    finite = jnp.isfinite(metrics["grad_norm"]) & jnp.isfinite(metrics["loss"])
    variables, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (variables, opt_state),
        (before.variables, before.opt_state),
    )
    skipped = before.skipped + ~finite
    metrics |= {"finite": finite, "skipped_steps": skipped}
    scale = before.loss_scale
    if scale is not None:
        scale = loss_scale.adjusted(scale, finite)
        metrics["loss_scale"] = scale.value
    return TrainState(before.step + 1, variables, opt_state, skipped, scale), metrics


def make_predict_step(
    detector: Detector, mesh: Mesh
) -> Callable[[Variables, Batch], Detections]:
    """`predict(variables, batch) -> Detections` with the batch split over devices."""
    predict = jax.shard_map(
        detector.predict,
        mesh=mesh,
        in_specs=(P(), P(AXIS)),
        out_specs=P(AXIS),
        check_vma=False,
    )
    return jax.jit(predict)
