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

from frcnn_jax.training import devices, loss_scale, optimizer
from frcnn_jax.training.state import TrainState, average
from frcnn_jax.types import Batch, Detections, Detector, Variables

AXIS = "data"
TOGETHER = 8  # arrays whose squares are added before they are summed


def make_train_step(
    detector: Detector,
    tx: optax.GradientTransformation,
    freeze: tuple[str, ...],
    mesh: Mesh,
    *,
    parts: int = 1,
    ema: float = 0.0,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """`step(state, batch, key) -> (state, metrics)`; the old state is used up.

    `key` is the run's key; the step number is folded in here. Metrics are scalars over
    the global batch. Only trainable parameters are differentiated, so nothing is
    computed backwards below the frozen stages. A step whose loss or global gradient is
    not finite changes nothing but the step number, the count of such steps and the loss
    scale, if there is one; "finite" among the metrics says so.
    `ema` is the decay of `state.ema`, if any; `parts`: see `_in_parts`.
    """

    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(), P(), P(), P(AXIS), P(), P()),
        out_specs=P(),
        check_vma=False,
    )
    def gradients(trainable, frozen, collections, batch, key, scale):
        def loss(trainable, collections, batch):
            params = optimizer.join(trainable, frozen)
            variables = {**collections, "params": params}
            total, (metrics, updates) = detector.loss(variables, batch, key, AXIS)
            metrics = {"loss": total, **metrics}
            return loss_scale.scaled(total, scale), (metrics, updates)

        gradient = partial(jax.grad(loss, has_aux=True), trainable)
        grads, metrics, updates = _in_parts(gradient, collections, batch, parts)
        grads, metrics = jax.lax.psum((grads, metrics), AXIS)
        return loss_scale.unscaled(grads, scale), metrics, updates

    @partial(_jit, mesh, donate_argnums=0)
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
        metrics["grad_norm"] = _norm(grads)
        metrics["update_norm"] = _norm(changes)
        mean = state.ema and average(state.ema, variables, state.step, ema)
        return _settled(state, (variables, opt_state, mean), metrics)

    return step


def _norm(tree) -> jax.Array:
    """The Euclidean norm of all numbers in a tree.

    Squares of some arrays of one size are added before they are summed: XLA puts the
    ends of all sums into one kernel, and one of some hundred arrays compiles for long,
    as does one that adds all squares of a size.
    """
    by_size: dict[int, list[jax.Array]] = {}
    for x in jax.tree.leaves(tree):
        by_size.setdefault(x.size, []).append(jnp.square(x.reshape(-1)))
    parts = [
        same[i : i + TOGETHER]
        for same in by_size.values()
        for i in range(0, len(same), TOGETHER)
    ]
    return jnp.sqrt(sum(sum(part[1:], part[0]).sum() for part in parts))


def _settled(before: TrainState, after: tuple, metrics: dict):
    """The state with variables, optimiser state and average of `after` if finite."""
    finite = jnp.isfinite(metrics["grad_norm"]) & jnp.isfinite(metrics["loss"])
    variables, opt_state, ema = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        after,
        (before.variables, before.opt_state, before.ema),
    )
    skipped = before.skipped + ~finite
    metrics |= {"finite": finite, "skipped_steps": skipped}
    scale = before.loss_scale
    if scale is not None:
        scale = loss_scale.adjusted(scale, finite)
        metrics["loss_scale"] = scale.value
    number = before.step + 1
    return TrainState(number, variables, opt_state, skipped, scale, ema), metrics


def _in_parts(gradient: Callable, collections: Variables, batch: Batch, parts: int):
    """Means of gradient and metrics over parts of a batch, and the last collections.

    Each device computes its images in so many equal parts, one after the other. The
    means are those of the whole batch where every part samples as many anchors and
    RoIs, which losses are divided by. Batch statistics pass from part to part.
    """
    if parts == 1:
        grads, (metrics, updates) = gradient(collections, batch)
        return grads, metrics, updates
    pieces = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)

    def visit(carried, piece):
        total, collections = carried
        grads, (metrics, updates) = gradient(collections, piece)
        total = jax.tree.map(jnp.add, total, grads)
        return (total, {**collections, **updates}), metrics

    first = jax.tree.map(lambda x: x[0], pieces)
    shapes, _ = jax.eval_shape(gradient, collections, first)
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (total, updates), metrics = jax.lax.scan(visit, (start, collections), pieces)
    grads = jax.tree.map(lambda x: x / parts, total)
    return grads, jax.tree.map(lambda x: x.mean(0), metrics), updates


def make_loss_step(
    detector: Detector, mesh: Mesh
) -> Callable[[Variables, Batch, jax.Array], dict[str, jax.Array]]:
    """`losses(variables, batch, key)`: the training losses of a batch, without a step.

    As in training: anchors and RoIs are sampled with `key`, and norms that are "batch"
    use the statistics of these images.
    """

    def losses(variables, batch, key):
        total, (metrics, _) = detector.loss(variables, batch, key, AXIS)
        return jax.lax.psum({"loss": total, **metrics}, AXIS)

    specs = (P(), P(AXIS), P())
    mapped = jax.shard_map(
        losses, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False
    )
    return _jit(mesh, mapped)


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
    return _jit(mesh, predict)


def _jit(mesh: Mesh, function: Callable, **options) -> Callable:
    """`jax.jit`, with what the devices of a mesh gain from."""
    own = devices.compiler_options(mesh.devices.flat[0].platform)
    plain = jax.jit(function, **options)
    if not own:
        return plain
    return _Tuned(plain, jax.jit(function, compiler_options=own, **options))


class _Tuned:
    """A function with options of the compiler, which JAX takes outside of `jit` only.

    Called while something around it is traced, it goes without.
    """

    def __init__(self, plain: Callable, tuned: Callable):
        self._plain, self._tuned = plain, tuned

    def __call__(self, *args):
        traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(args))
        return (self._plain if traced else self._tuned)(*args)

    def __getattr__(self, name: str):  # lower, trace and their like
        return getattr(self._tuned, name)
