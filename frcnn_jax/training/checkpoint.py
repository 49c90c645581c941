"""Saving and restoring, by Orbax: atomic, in the background, the last few and the best.

A checkpoint has parts, so that evaluation reads no optimiser state: "variables",
"optimizer", "counts", and "loss_scale" and "ema" where there are such. The step is its
name; the best one has variables only (the averaged ones), in `best` beside
`checkpoints`. One that cannot be read is set aside in `damaged`, and the one before it
is used.

Not here: what a run's configuration was (see `runs`).
"""

from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp

from frcnn_jax.training.state import TrainState
from frcnn_jax.types import Variables

LATEST, BEST = "latest", "best"


class SaveFailed(OSError):
    """A checkpoint could not be written; earlier ones are as they were."""


class Checkpoints:
    """The checkpoints of one run's folder."""

    def __init__(self, workdir: str | Path, keep: int | None):
        """Opens `workdir/checkpoints`, made on first use.

        With `keep` None only to read: nothing is made, moved or cleared away, for a
        training may be writing there.
        """
        self.workdir = Path(workdir).absolute()
        self.folder = self.workdir / "checkpoints"
        self._keep = keep
        self._manager = _manager(self.folder, keep)
        self._best: Any = None

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
        try:
            self.wait()
        except SaveFailed:
            if error is None:
                raise
        finally:
            self._manager.close()
            if self._best is not None:
                self._best.close()

    @property
    def latest(self) -> int | None:
        """The newest saved step."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Starts writing this state; a step already there stays as it is.

        Errors: SaveFailed, for this state or for the one before, whose writing ended
        meanwhile.
        """
        ocp, step = _orbax(), int(state.step)
        if step in self._manager.all_steps():
            return
        parts = {
            "variables": ocp.args.StandardSave(state.variables),
            "optimizer": ocp.args.StandardSave(state.opt_state),
            "counts": ocp.args.StandardSave({"skipped": state.skipped}),
        }
        if state.loss_scale is not None:
            parts["loss_scale"] = ocp.args.StandardSave(state.loss_scale)
        if state.ema is not None:
            parts["ema"] = ocp.args.StandardSave(state.ema)
        try:
            self._manager.save(step, args=ocp.args.Composite(**parts))
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Waits for what is being written. Errors: SaveFailed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> SaveFailed:
        self._manager.reload()
        kept = self._manager.all_steps()
        return SaveFailed(
            f"a checkpoint could not be written to {self.folder}"
            f" ({_first_line(error)}); those of steps {sorted(kept)} are as they were."
            " Make room there, or allow writing, and continue with the same command"
        )

    def save_best(self, state: TrainState, ap: float) -> None:
        """Writes the variables to `best` in the place of what is there, and waits.

        Its metadata tell the AP.
        """
        if self._best is None:
            self._best = _manager(self.workdir / BEST, 1)
        ocp, step = _orbax(), int(state.step)
        for old in self._best.all_steps():
            if old >= step:  # of steps that a resumed run takes again
                self._best.delete(old)
        args = ocp.args.Composite(variables=ocp.args.StandardSave(state.best))
        try:
            self._best.save(step, args=args, custom_metadata={"AP": ap})
            self._best.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def restore(self, like: TrainState) -> TrainState:
        """The newest state that can be read, placed as `like` is.

        Prints which are damaged and why; they are set aside. Errors: FileNotFoundError
        where none is left. An average that was not saved begins with the variables.
        """
        ocp = _orbax()
        parts = {
            "variables": ocp.args.StandardRestore(_shapes(like.variables)),
            "optimizer": ocp.args.StandardRestore(_shapes(like.opt_state)),
            "counts": ocp.args.StandardRestore(_shapes({"skipped": like.skipped})),
        }
        if like.loss_scale is not None:
            parts["loss_scale"] = ocp.args.StandardRestore(_shapes(like.loss_scale))
        if like.ema is not None and self._averaged():
            parts["ema"] = ocp.args.StandardRestore(_shapes(like.ema))
        found, step = self._newest(ocp.args.Composite(**parts))
        ema = found.get("ema")
        if like.ema is not None and ema is None:
            ema = jax.tree.map(jnp.copy, found["variables"])
        number = jax.device_put(like.step * 0 + step, like.step.sharding)
        return TrainState(
            number,
            found["variables"],
            found["optimizer"],
            found["counts"]["skipped"],
            found.get("loss_scale"),
            ema,
        )

    def restore_variables(
        self, like: Variables, which: str = LATEST
    ) -> tuple[Variables, int]:
        """Variables placed as `like` is, and their step: the newest, or the best.

        The averaged ones where the run keeps an average.

        Errors: FileNotFoundError where there are none.
        """
        ocp = _orbax()
        args = ocp.args.Composite(variables=ocp.args.StandardRestore(_shapes(like)))
        if which == BEST:
            if not (self.workdir / BEST).is_dir():
                raise FileNotFoundError(
                    f"{self.workdir} has no best checkpoint: it was never evaluated"
                )
            best = _manager(self.workdir / BEST, None)
            step = best.latest_step()
            try:
                return best.restore(step, args=args)["variables"], step
            except Exception as error:
                raise FileNotFoundError(
                    f"the best checkpoint, in {self.workdir / BEST}, cannot be read"
                    f" ({_first_line(error)}); take the newest: --checkpoint=latest"
                ) from error
        name = "ema" if self._averaged() else "variables"
        part = {name: ocp.args.StandardRestore(_shapes(like))}
        found, step = self._newest(ocp.args.Composite(**part))
        return found[name], step

    def _averaged(self) -> bool:
        """Whether the newest checkpoint has averaged variables."""
        return (self.folder / str(self.latest) / "ema").is_dir()

    def _newest(self, args: Any) -> tuple[Any, int]:
        """Restore the newest step that can be, setting aside those that cannot."""
        steps, reasons = sorted(self._manager.all_steps(), reverse=True), []
        for step in steps:
            try:
                found = self._manager.restore(step, args=args)
            except Exception as error:
                reasons.append(f"step {step}: {_first_line(error)}")
                continue
            aside = "" if self._keep is None else " and is set aside"
            for bad, reason in zip(steps, reasons, strict=False):
                print(f"checkpoint cannot be used{aside}, {reason}")
                self._set_aside(bad)
            if reasons:
                print(f"the checkpoint of step {step} is used instead")
            return found, step
        if not steps:
            raise FileNotFoundError(
                f"no checkpoint in {self.folder}: train first, or name another workdir"
            )
        raise FileNotFoundError(
            f"no checkpoint in {self.folder} can be read ({'; '.join(reasons)}). Was it"
            " made by another version, or for another model? Choose another --workdir"
            " to begin again"
        )

    def _set_aside(self, step: int) -> None:
        """Move a damaged checkpoint away, so that its step can be saved again."""
        if jax.process_index() or self._keep is None:
            return
        place = self.workdir / "damaged" / str(step)
        place.parent.mkdir(exist_ok=True)
        number = 0
        while place.exists():
            number += 1
            place = place.with_name(f"{step}.{number}")
        (self.folder / str(step)).rename(place)
        self._manager.reload()


def _orbax() -> Any:
    import orbax.checkpoint as ocp  # a tenth of a second that converting does without

    return ocp


def _manager(folder: Path, keep: int | None) -> Any:
    from orbax.checkpoint.checkpoint_managers import LatestN

    ocp, writes = _orbax(), keep is not None
    # What looks left behind to a reader may be what training is just writing.
    options = ocp.CheckpointManagerOptions(
        preservation_policy=LatestN(keep) if writes else None,
        cleanup_tmp_directories=writes,
        create=writes,
    )
    return ocp.CheckpointManager(folder, options=options)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def _shapes(tree: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
    )
