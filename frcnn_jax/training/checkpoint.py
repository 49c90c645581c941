"""Saving and restoring, by Orbax: atomic, in the background, the last few kept.

A checkpoint has parts, so that evaluation reads no optimiser state: "variables",
"optimizer", and "loss_scale" where the run has one. The step is its name.
"""

from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import LatestN

from frcnn_jax.training.state import TrainState
from frcnn_jax.types import Variables

PARTS = ("variables", "optimizer", "loss_scale")


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
        self._manager.save(step, args=ocp.args.Composite(**parts))

    def restore(self, like: TrainState) -> TrainState:
        """The newest state, placed as `like` is."""
        step = self.latest
        parts = {
            "variables": ocp.args.StandardRestore(_shapes(like.variables)),
            "optimizer": ocp.args.StandardRestore(_shapes(like.opt_state)),
        }
        if like.loss_scale is not None:
            parts["loss_scale"] = ocp.args.StandardRestore(_shapes(like.loss_scale))
        found = self._manager.restore(step, args=ocp.args.Composite(**parts))
        number = jax.device_put(like.step * 0 + step, like.step.sharding)
        return TrainState(number, *(found.get(name) for name in PARTS))

    def restore_variables(self, like: Variables) -> tuple[Variables, int]:
        """The newest variables, placed as `like` is, and their step."""
        step = self.latest
        if step is None:
            raise FileNotFoundError(
                f"no checkpoint in {self.folder}: train first, or name another workdir"
            )
        part = ocp.args.StandardRestore(_shapes(like))
        found = self._manager.restore(step, args=ocp.args.Composite(variables=part))
        return found["variables"], step


def _shapes(tree: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
    )
