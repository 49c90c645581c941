"""The one page: batches in, steps, log, checkpoints, evaluation."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from frcnn_jax import config
from frcnn_jax.training.checkpoint import Checkpoints
from frcnn_jax.training.distributed import to_batch
from frcnn_jax.training.log import Clock, MetricLog, device_memory, progress_line
from frcnn_jax.training.state import TrainState
from frcnn_jax.types import Variables


class Plan(NamedTuple):
    """When things happen, in steps."""

    total: int
    epoch_of: Callable[[int], float]  # steps done -> epochs done
    rate: Callable[[int], float]  # step -> learning rate
    eval_steps: frozenset[int]  # after how many steps to evaluate
    checkpoint_steps: frozenset[int]


class NonFinite(ArithmeticError):
    """A loss became NaN or infinite."""


def fit(
    state: TrainState,
    step_fn: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
    batches: Iterator[dict[str, np.ndarray]],
    *,
    plan: Plan,
    evaluate: Callable[[Variables, int], Mapping[str, Any]],
    checkpoints: Checkpoints,
    log: MetricLog,
    train: config.Train,
    key: jax.Array,
    mesh: jax.sharding.Mesh,
    earlier: Sequence[float] = (),
) -> TrainState:
    """Trains from `state` to `plan.total` steps, or until patience ends.

    `earlier` are the APs of evaluations before this session.

    `batches` must begin with the batch of `state.step`. One step is in flight while the
    next batch is fetched; the wait counts as idle only if the device ran dry meanwhile.
    Errors: NonFinite, naming step, terms and images, at the next report or save, so
    that a broken state never replaces a good one.
    """
    done, clock, metrics, started = int(state.step), Clock(), None, None
    scores = list(earlier)
    while done < plan.total and not exhausted(scores, train.patience):
        # Fetch
        arrays, data, idle = _fetch(batches, metrics)
        batch = to_batch(arrays, mesh)

        # Step: wait for the one before, so that at most two are in flight
        before = metrics
        state, metrics = step_fn(state, batch, key)
        done += 1
        clock.count(train.batch_size, idle, data=data, device=_wait(before))
        if started is None:  # the first step compiles; it says nothing about speed
            jax.block_until_ready(metrics)
            started = time.perf_counter(), done
            clock.reset()

        # Log
        if done % train.log_every == 0 or done == plan.total:
            values = _report(metrics, clock, plan, done, arrays["image_id"])
            left = _seconds_left(started, done, plan.total)
            _say(done, plan.total, values, left, log)
            clock.reset()

        # Save
        if done in plan.checkpoint_steps:
            _finite(metrics, done, arrays["image_id"])
            checkpoints.save(state)

        # Evaluate
        if done in plan.eval_steps:
            found = evaluate(state.best, done)
            log.write(done, _scores(found))
            scores.append(found["AP"])
            clock.reset()
    return state


def _say(done: int, total: int, values, seconds_left: float, log: MetricLog) -> None:
    print(progress_line(done, total, values, seconds_left=seconds_left), flush=True)
    log.write(done, values)


def exhausted(scores: Sequence[float | None], patience: int) -> bool:
    """Whether the last `patience` scores are all no better than one before; 0 = never.

    A score of None (nothing to find) is below all others. Says so when it is.
    """
    values = [-math.inf if score is None else score for score in scores]
    if not patience or len(values) <= patience:
        return False
    best = values.index(max(values))
    if len(values) - 1 - best < patience:
        return False
    print(
        f"stopping early: AP {values[best]:.4f} of evaluation {best + 1} was not"
        f" bettered in the {patience} after it (train.patience)"
    )
    return True


def _scores(found: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of an evaluation as the log has them, each class's AP too."""
    flat = {f"eval/{k}": v for k, v in found.items() if k != "step"}
    classes = found.get("per_class", {}).items()
    return flat | {f"eval/AP/{name}": row["AP"] for name, row in classes}


def _fetch(batches, metrics):
    """The next batch, and for how long the host and the device waited for it."""
    start = time.perf_counter()
    arrays = next(batches)
    waited = time.perf_counter() - start
    device_idle = metrics is None or metrics["loss"].is_ready()
    return arrays, waited, waited if device_idle else 0.0


def _wait(arrays: Any) -> float:
    """Seconds until the device has these."""
    start = time.perf_counter()
    jax.block_until_ready(arrays)
    return time.perf_counter() - start


def _report(
    metrics, clock: Clock, plan: Plan, done: int, image_ids
) -> dict[str, float]:
    clock.waited(_wait(metrics))
    values = _finite(metrics, done, image_ids) | clock.report() | device_memory()
    # Skipped steps do not move the optimiser's own count, which the rate follows.
    taken = done - int(values.get("skipped_steps", 0))
    rate = float(plan.rate(max(taken - 1, 0)))
    return values | {"lr": rate, "epoch": plan.epoch_of(done)}


def _finite(metrics, done: int, image_ids) -> dict[str, float]:
    """The metrics as numbers, if they are.

    With a loss scale a step that overflows is skipped, which is no error until halving
    has taken the scale below 1: then the loss itself is broken.
    """
    values = {name: float(value) for name, value in metrics.items()}
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken and values.get("loss_scale", 0.0) < 1.0:
        raise NonFinite(
            f"{', '.join(broken)} not finite at step {done}; rows of the data set in"
            f" this batch: {image_ids.tolist()}. Look at these images' boxes, or lower"
            " train.lr"
        )
    return values


def _seconds_left(started: tuple[float, int], done: int, total: int) -> float:
    start, first = started
    if done == first:
        return 0.0
    return (time.perf_counter() - start) / (done - first) * (total - done)
