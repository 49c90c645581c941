"""Saving and restoring, by Orbax: atomic, in the background, the last few kept.

A checkpoint has parts, so that evaluation reads no optimiser state: "variables",
"optimizer", and "loss_scale" and "ema" where the run has them. The step is its name.
"""

from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import LatestN

from frcnn_jax.training.state import TrainState
from frcnn_jax.types import Variables

PARTS = ("variables", "optimizer", "loss_scale", "ema")


class Checkpoints:
    """The checkpoints of one run's folder."""

    def __init__(self, workdir: str | Path, keep: int):
        """Opens `workdir/checkpoints`, made on first use."""
        options = ocp.CheckpointManagerOptions(
            preservation_policy=LatestN(keep), cleanup_tmp_directories=True
        )
        self.folder = Path(workdir).absolute() / "checkpoints"
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        """Nothing to do; leaving waits for the last save."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Waits for what is being written."""
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The newest saved step."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Starts writing this state; a step already there stays as it is."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        parts = {
            "variables": ocp.args.StandardSave(state.variables),
            "optimizer": ocp.args.StandardSave(state.opt_state),
        }
        if state.loss_scale is not None:
            parts["loss_scale"] = ocp.args.StandardSave(state.loss_scale)
        if state.ema is not None:
            parts["ema"] = ocp.args.StandardSave(state.ema)
        self._manager.save(step, args=ocp.args.Composite(**parts))

    def restore(self, like: TrainState) -> TrainState:
        """The newest state, placed as `like` is.

        An average that was not saved begins with the saved variables.
        """
        step = self.latest
        parts = {
            "variables": ocp.args.StandardRestore(_shapes(like.variables)),
            "optimizer": ocp.args.StandardRestore(_shapes(like.opt_state)),
        }
        if like.loss_scale is not None:
            parts["loss_scale"] = ocp.args.StandardRestore(_shapes(like.loss_scale))
        if like.ema is not None and self._has(step, "ema"):
            parts["ema"] = ocp.args.StandardRestore(_shapes(like.ema))
        found = self._manager.restore(step, args=ocp.args.Composite(**parts))
        found = [found.get(name) for name in PARTS]
        if like.ema is not None and found[-1] is None:
            found[-1] = jax.tree.map(jnp.copy, found[0])
        number = jax.device_put(like.step * 0 + step, like.step.sharding)
        return TrainState(number, *found)

    def restore_variables(self, like: Variables) -> tuple[Variables, int]:
        """The newest variables, placed as `like` is, and their step.

        The averaged ones where the run keeps an average.
        """
        step = self.latest
        if step is None:
            raise FileNotFoundError(
                f"no checkpoint in {self.folder}: train first, or name another workdir"
            )
        name = "ema" if self._has(step, "ema") else "variables"
        part = {name: ocp.args.StandardRestore(_shapes(like))}
        found = self._manager.restore(step, args=ocp.args.Composite(**part))
        return found[name], step

    def _has(self, step: int, part: str) -> bool:
        return (self.folder / str(step) / part).is_dir()


def _shapes(tree: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
    )
