"""Suggests a learning rate: some steps at growing rates, a table and a picture.

    python tools/find_lr.py --config=configs/finetune.py --config.data.root=my_data

The rate grows by the same factor in every step (Smith 2017, "Cyclical learning rates",
section 3.3). It ends where the smoothed loss exceeds `RISE` times its least value or is
no number. The suggestion is a tenth of the rate with the least smoothed loss, a rule of
thumb: a first value to try, below the rate at which training breaks. Nothing is saved
but `--out`; warm-up and milestones are not used.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

import jax  # noqa: E402
import numpy as np  # noqa: E402
from absl import flags  # noqa: E402
from PIL import Image, ImageDraw, ImageFont  # noqa: E402

from frcnn_jax import build, cli, config  # noqa: E402
from frcnn_jax.training import distributed  # noqa: E402
from frcnn_jax.training.loop import Plan  # noqa: E402

SMOOTH = 0.9  # share of the average that stays at each step
RISE = 2.0  # times the least smoothed loss, at which the search ends
WARM = 10  # steps before which no suggestion is taken
FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    cli.refuse_extra(argv)
    run = cli.checked(FLAGS.config)
    rates = np.geomspace(FLAGS.lowest, FLAGS.highest, FLAGS.steps)
    losses = search(run, rates)
    smoothed = smooth(losses)
    for step in range(0, len(losses), max(len(losses) // 10, 1)):
        print(
            f"rate {rates[step]:.2e}  loss {losses[step]:8.4f} ({smoothed[step]:.4f})"
        )
    found = suggestion(rates, smoothed)
    Path(FLAGS.out).parent.mkdir(parents=True, exist_ok=True)
    picture(rates[: len(losses)], losses, smoothed, found).save(FLAGS.out)
    print(
        f"suggestion for {run.train.batch_size} images a step, after {len(losses)} of"
        f" {len(rates)} rates:\n  --config.train.lr={found:.2g}"
        f" --config.train.lr_batch_size={run.train.batch_size}\npicture: {FLAGS.out}"
    )


def search(run: config.Run, rates: np.ndarray) -> list[float]:
    """The loss of each step, until it breaks; all are finite."""
    mesh = distributed.make_mesh()
    run, data, _ = build.datasets(run)
    table = jax.numpy.asarray(rates, jax.numpy.float32)
    none = frozenset()
    plan = Plan(len(rates), float, lambda step: table[step], none, none)
    names = data.class_names
    state, tx = build.training_state(run, mesh, plan, load=True, class_names=names)
    take, losses = build.train_step(run, tx, mesh), []
    batches, key = build.train_batches(run, data, 0), jax.random.key(run.seed)
    while len(losses) < len(rates):
        batch = distributed.to_batch(next(batches), mesh)
        state, metrics = take(state, batch, key)
        loss = float(metrics["loss"])
        if not math.isfinite(loss):
            break
        losses.append(loss)
        smoothed = smooth(losses)
        if len(losses) > WARM and smoothed[-1] > RISE * min(smoothed):
            break
    batches.close()
    if len(losses) <= WARM:
        raise ValueError(
            f"the loss broke after {len(losses)} steps, at rate"
            f" {rates[len(losses) - 1]:.1e}: begin lower with --lowest"
        )
    return losses


def smooth(losses: list[float]) -> np.ndarray:
    """Exponential averages, as if the first value had gone on for ever before."""
    mean, found = losses[0], []
    for loss in losses:
        mean = SMOOTH * mean + (1 - SMOOTH) * loss
        found.append(mean)
    return np.asarray(found)


def suggestion(rates: np.ndarray, smoothed: np.ndarray) -> float:
    """A tenth of the rate with the least smoothed loss, after the first `WARM`."""
    return float(rates[WARM + int(smoothed[WARM:].argmin())]) / 10


def picture(rates, losses, smoothed, found: float) -> Image.Image:
    """Losses (dots) and their average (line) over the logarithm of the rate."""
    width, height, edge = 900, 540, 70
    page = Image.new("RGB", (width, height), (255, 255, 255))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    # What comes after the least average, often an explosion, is cut at the top.
    low, high = min(losses), 1.1 * float(max(smoothed[: int(smoothed.argmin()) + 1]))
    left, right = math.log10(min(rates[0], found)), math.log10(rates[-1])

    def place(rate: float, loss: float) -> tuple[float, float]:
        x = (math.log10(rate) - left) / (right - left)
        y = (min(loss, high) - low) / (high - low)
        return edge + x * (width - 2 * edge), height - edge - y * (height - 2 * edge)

    for power in range(math.ceil(left), math.floor(right) + 1):
        x, y = place(10.0**power, low)
        pen.line([(x, edge), (x, y)], (225, 225, 225))
        pen.text((x, y + 10), f"1e{power}", (60, 60, 60), font, anchor="ma")
    for loss in np.linspace(low, high, 5):
        x, y = place(10.0**left, loss)
        pen.line([(x, y), (width - edge, y)], (225, 225, 225))
        pen.text((x - 8, y), f"{loss:.2f}", (60, 60, 60), font, anchor="rm")
    for rate, loss in zip(rates, losses, strict=True):
        x, y = place(rate, loss)
        pen.ellipse([x - 2, y - 2, x + 2, y + 2], (150, 190, 220))
    points = [place(r, v) for r, v in zip(rates, smoothed, strict=True)]
    pen.line(points, (0, 114, 178), 3)
    x, y = place(found, low)
    pen.line([(x, edge), (x, y)], (213, 94, 0), 2)
    pen.text((x + 6, edge), f"suggestion {found:.2g}", (213, 94, 0), font)
    pen.text((width / 2, 24), "loss over learning rate", (0, 0, 0), font, anchor="mm")
    return page


if __name__ == "__main__":
    cli.define_config(required=True)
    flags.DEFINE_integer("steps", 100, "How many rates.", 20)
    flags.DEFINE_float("lowest", 1e-5, "The first rate.")
    flags.DEFINE_float("highest", 1.0, "The last rate.")
    flags.DEFINE_string("out", "runs/find_lr.png", "Where to draw.")
    cli.run(main)
