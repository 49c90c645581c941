"""Saving and restoring, by Orbax: atomic, in the background, the last few and the best.

A checkpoint has parts, so that evaluation reads no optimiser state: "variables",
"optimizer", "counts", and "loss_scale" and "ema" where there are such. The step is its
name; the best one has variables only (the averaged ones), in `best` beside
`checkpoints`. One that cannot be read is set aside in `damaged`, and the one before it
is used.

Not here: what a checkpoint tells of itself (see `about`), nor what a run's
configuration was (see `runs`).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp

from frcnn_jax.training import about, distributed
from frcnn_jax.training.about import TooNew
from frcnn_jax.training.state import TrainState
from frcnn_jax.types import Variables

LATEST, BEST = "latest", "best"


class SaveFailed(OSError):
    """A checkpoint could not be written; earlier ones are as they were."""


class Checkpoints:
    """The checkpoints of one run's folder."""

    def __init__(
        self, workdir: str | Path, keep: int | None, *, best_effort: bool = False
    ):
        """Opens `workdir/checkpoints`, made on first use.

        With `keep` None only to read: nothing is made, moved or cleared away, for a
        training may be writing there. `rollbacks` is saved with each state and comes
        back with it: a run that is killed must not go back again and again. With
        `best_effort` what could not be written is told, and the run may go on.

        Errors: SaveFailed where no folder can be made.
        """
        self.workdir = Path(workdir).absolute()
        self.folder = self.workdir / "checkpoints"
        self.rollbacks = 0
        self._keep, self._best_effort = keep, best_effort
        try:
            self._manager = self._opened()
        except OSError as error:
            raise _save_failed(self.folder, error, "others are") from error
        self._best: Any = None

    def _opened(self) -> Any:
        """Orbax's manager, which reads what all checkpoints tell before it is there."""
        try:
            return _manager(self.folder, self._keep)
        except ValueError:
            reasons = about.unreadable(self.folder)
            if not reasons or self._keep is None:
                raise
        distributed.wait_for_all("damaged metadata are known")
        self._set_aside(list(reasons), list(reasons.values()))
        return _manager(self.folder, self._keep)

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

    def save(self, state: TrainState, *, final: bool = False) -> None:
        """Starts writing this state; a step already there stays as it is.

        Errors: SaveFailed, for this state or for the one before, whose writing ended
        meanwhile. With best effort only a `final` state fails, after a second try.
        """
        write = partial(self._save, state)
        if not self._effort(write) and final:
            write()

    def _effort(self, write: Callable[[], None]) -> bool:
        """Whether it was written; raises SaveFailed, or with best effort tells it."""
        try:
            write()
        except SaveFailed as error:
            if not self._best_effort:
                raise
            print(f"warning: {error}. Training goes on (train.save_best_effort)")
            return False
        return True

    def _save(self, state: TrainState) -> None:
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
        tells = about.of(parts) | {"rollbacks": self.rollbacks}
        args = ocp.args.Composite(**parts)
        try:
            self._manager.save(step, args=args, custom_metadata=tells)
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Waits for what is being written. Errors: SaveFailed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> SaveFailed:
        try:
            self._manager.reload()
            kept = f"those of steps {sorted(self._manager.all_steps())} are"
        except OSError:  # the folder is gone, or cannot be listed either
            kept = "others are"
        return _save_failed(self.folder, error, kept)

    def save_best(self, state: TrainState, ap: float) -> None:
        """Writes the variables to `best` in the place of what is there, and waits.

        Its metadata tell the AP. Errors: SaveFailed, without best effort.
        """
        self._effort(partial(self._save_best, state, ap))

    def _save_best(self, state: TrainState, ap: float) -> None:
        ocp, step, folder = _orbax(), int(state.step), self.workdir / BEST
        parts = {"variables": ocp.args.StandardSave(state.best)}
        tells = about.of(parts) | {"AP": ap}
        try:
            if self._best is None:
                self._best = _manager(folder, 1)
            for old in self._best.all_steps():
                if old >= step:  # of steps that a resumed run takes again
                    self._best.delete(old)
            args = ocp.args.Composite(**parts)
            self._best.save(step, args=args, custom_metadata=tells)
            self._best.wait_until_finished()
        except Exception as error:
            kept = f"those in {self.folder} are"
            raise _save_failed(folder, error, kept) from error

    def restore(self, like: TrainState) -> TrainState:
        """The newest state that can be read, placed as `like` is.

        Prints which are damaged and why; they are set aside. Errors: FileNotFoundError
        where none is left, TooNew. An average that was not saved begins with the
        variables, the number of skipped steps with 0.
        """
        parts = {
            "variables": like.variables,
            "optimizer": like.opt_state,
            "counts": {"skipped": like.skipped},
            "loss_scale": like.loss_scale,
            "ema": like.ema,
        }

        def wanted(there):
            return {
                name: tree
                for name, tree in parts.items()
                if tree is not None and (name in there or name not in about.LATER_PARTS)
            }

        found, step, told = self._newest(wanted)
        # Never fewer than known: going back restores a checkpoint from before.
        self.rollbacks = max(self.rollbacks, told.get("rollbacks", 0))
        ema = found.get("ema")
        if like.ema is not None and ema is None:
            ema = jax.tree.map(jnp.copy, found["variables"])
        number = jax.device_put(like.step * 0 + step, like.step.sharding)
        counts = found.get("counts") or {"skipped": like.skipped * 0}
        return TrainState(
            number,
            found["variables"],
            found["optimizer"],
            counts["skipped"],
            found.get("loss_scale"),
            ema,
        )

    def restore_variables(
        self, like: Variables, which: str = LATEST
    ) -> tuple[Variables, int]:
        """Variables placed as `like` is, and their step: the newest, or the best.

        The averaged ones where the run keeps an average.

        Errors: FileNotFoundError where there are none, TooNew.
        """
        if which == BEST:
            return self._restore_best(like)

        def wanted(there):
            return {"ema" if "ema" in there else "variables": like}

        found, step, _ = self._newest(wanted)
        return next(iter(found.values())), step

    def _restore_best(self, like: Variables) -> tuple[Variables, int]:
        folder = self.workdir / BEST
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{self.workdir} has no best checkpoint: it was never evaluated"
            )
        manager = _manager(folder, None)
        step = manager.latest_step()
        try:
            about.read(folder / str(step))
            return _restored(manager, step, {"variables": like})["variables"], step
        except TooNew:
            raise
        except Exception as error:
            raise FileNotFoundError(
                f"the best checkpoint, in {folder}, cannot be read"
                f" ({_first_line(error)}); take the newest: --checkpoint=latest"
            ) from error

    def _newest(
        self, wanted: Callable[[Sequence[str]], Mapping[str, Any]]
    ) -> tuple[Any, int, dict[str, Any]]:
        """Restore the newest step that can be, setting aside those that cannot.

        `wanted` says what of the parts that are there to read, as trees to place like.
        """
        self.wait()
        steps, reasons = sorted(self._manager.all_steps(), reverse=True), []
        for step in steps:
            found, told = None, {}
            try:
                told = about.read(self.folder / str(step))
                found = _restored(self._manager, step, wanted(told["parts"]))
            except TooNew:
                raise
            except Exception as error:
                why = _first_line(error) + about.changed(told)
                reasons.append(f"step {step}: {why}")
            # All processes take the same one, and none moves what another still reads.
            if distributed.all_agree(found is not None):
                if reasons:
                    self._set_aside(steps[: len(reasons)], reasons)
                    self._manager.reload()
                    print(f"the checkpoint of step {step} is used instead")
                return found, step, told
            if found is not None:
                reasons.append(f"step {step}: another process could not read it")
        if not steps:
            raise FileNotFoundError(
                f"no checkpoint in {self.folder}: train first, or name another workdir"
            )
        raise FileNotFoundError(
            f"no checkpoint in {self.folder} can be read ({'; '.join(reasons)}). Was it"
            " made by another version, or for another model? Choose another --workdir"
            " to begin again"
        )

    def _set_aside(self, steps: list[int], reasons: list[str]) -> None:
        """Move damaged checkpoints away, so that their steps can be saved again."""
        aside = "" if self._keep is None else " and is set aside"
        for reason in reasons:
            print(f"checkpoint cannot be used{aside}, {reason}")
        if self._keep is None:
            return
        if distributed.is_first():
            for step in steps:
                (self.folder / str(step)).rename(_free(self.workdir / "damaged", step))
        distributed.wait_for_all("damaged checkpoints are set aside")


def _save_failed(folder: Path, error: Exception, kept: str) -> SaveFailed:
    return SaveFailed(
        f"a checkpoint could not be written to {folder} ({_first_line(error)}); {kept}"
        " as they were. Make room there, or allow writing, and continue with the same"
        " command"
    )


def _free(folder: Path, step: int) -> Path:
    """A name for this step that is not taken."""
    folder.mkdir(exist_ok=True)
    place, number = folder / str(step), 0
    while place.exists():
        number += 1
        place = place.with_name(f"{step}.{number}")
    return place


def _restored(manager: Any, step: int, parts: Mapping[str, Any]) -> Any:
    """These parts of a step, placed as the trees given for them are."""
    restore = _orbax().args.StandardRestore
    args = {name: restore(_shapes(tree)) for name, tree in parts.items()}
    return manager.restore(step, args=_orbax().args.Composite(**args))


def _orbax() -> Any:
    import orbax.checkpoint as ocp  # a tenth of a second that converting does without

    return ocp


def _manager(folder: Path, keep: int | None) -> Any:
    from orbax.checkpoint.checkpoint_managers import LatestN

    ocp, writes = _orbax(), keep is not None
    logging.getLogger("absl").addFilter(_is_news)
    logging.getLogger("asyncio").addFilter(_is_news)
    if writes and folder.is_file():  # else told after the first steps
        raise NotADirectoryError(f"{folder} is a file")
    # What looks left behind to a reader may be what training is just writing. Folders
    # are made at once: threads that wait for one that cannot be made hold up the end
    # of the process for ten minutes.
    options = ocp.CheckpointManagerOptions(
        preservation_policy=LatestN(keep) if writes else None,
        cleanup_tmp_directories=writes,
        create=writes,
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
    )
    return ocp.CheckpointManager(folder, options=options)


def _is_news(record: logging.LogRecord) -> bool:
    """False for tracebacks of each array that was not written; SaveFailed tells it."""
    told = ("/orbax/checkpoint/", "/asyncio/")
    place = Path(record.pathname).as_posix()
    return record.levelno < logging.ERROR or not any(x in place for x in told)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def _shapes(tree: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
    )
