"""Runs a batch that was not finite again, and says where the numbers break.

    python tools/replay.py runs/mine/nonfinite/step_120.npz [--checkpoint=best]

Training keeps such batches. The parameters are those of the run's newest checkpoint:
after exit code 3 exactly those of the step, otherwise the nearest there are. Printed
are every loss term, the norm of the gradient of every part of the network, and what of
them is not finite.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

from frcnn_jax import build, cli, runs  # noqa: E402
from frcnn_jax.training import optimizer  # noqa: E402
from frcnn_jax.types import Batch  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_enum("checkpoint", "latest", ["latest", "best"], "Whose parameters.")
DEPTH = 2  # parts of a parameter path that name a part of the network


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise ValueError("usage: python tools/replay.py RUN/nonfinite/step_N.npz")
    file = Path(argv[1])
    step, batch = load(file)
    run, _ = runs.load_run(file.parents[1])
    found = runs.trained(run, str(file.parents[1]), None, FLAGS.checkpoint)
    print(f"{file}: step {step}, parameters of {found.source}")
    terms, norms = replay(run, found.variables, batch, step)
    print(table("loss term", terms), table("gradient norm of", norms), sep="\n\n")
    broken = [name for name, x in {**terms, **norms}.items() if not np.isfinite(x)]
    print("\nnot finite: " + (", ".join(broken) or "nothing, with these parameters"))


def load(file: Path) -> tuple[int, Batch]:
    """The step and the batch of a file. Errors: FileNotFoundError, ValueError."""
    if not file.is_file():
        near = ", ".join(sorted(p.name for p in file.parent.glob("*.npz"))[:20])
        raise FileNotFoundError(f"{file} does not exist; there is {near or 'none'}")
    with np.load(file) as kept:
        arrays = {name: jax.numpy.asarray(kept[name]) for name in kept.files}
    if not {*Batch._fields} <= arrays.keys():
        raise ValueError(f"{file} is no batch that training kept")
    return int(arrays.pop("step")), Batch(**arrays)


def replay(run, variables, batch: Batch, step: int) -> tuple[dict, dict]:
    """Loss terms, and gradient norms by part of the network."""
    trainable, frozen = optimizer.split(variables["params"], run.train.freeze)
    rest = {k: v for k, v in variables.items() if k != "params"}
    key = jax.random.fold_in(jax.random.key(run.seed), step - 1)

    def loss(trainable):
        whole = {**rest, "params": optimizer.join(trainable, frozen)}
        total, (metrics, _) = build.detector(run.model).loss(whole, batch, key)
        return total, {"loss": total, **metrics}

    gradients = jax.jit(jax.grad(loss, has_aux=True))
    grads, terms = gradients(trainable)
    squares: dict[str, float] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        name = "/".join(str(part.key) for part in path[:DEPTH])
        square = float((leaf.astype(jax.numpy.float32) ** 2).sum())
        squares[name] = squares.get(name, 0.0) + square
    terms = {name: float(value) for name, value in terms.items()}
    return terms, {name: square**0.5 for name, square in squares.items()}


def table(title: str, values: dict[str, float]) -> str:
    """Names and numbers, aligned."""
    width = max(len(name) for name in (title, *values))
    rows = [f"{name:<{width}}  {value:12.6g}" for name, value in values.items()]
    return "\n".join([title, *rows])


if __name__ == "__main__":
    cli.run(main)
