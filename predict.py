"""Finds objects: python predict.py --workdir=DIR PICTURE... --out=DIR.

A PICTURE is a file, a folder, a quoted pattern ('photos/**/*.jpg') or "-": a path on
each line of standard input. Instead of a workdir: --config=... --weights=FILE; without
--config a file of convert.py, or the name of published weights,
--weights=mmdet:r50_fpn_1x (`eval.py --weights=mmdet:` lists them). Writes what --save
names, see docs/predicting.md; by default one picture per image and `predictions.json`
in COCO results format.
"""

import sys
from collections import Counter
from pathlib import Path

from absl import flags

from frcnn_jax import cli, runs
from frcnn_jax.data import pictures
from frcnn_jax.data.transforms import BadImage
from frcnn_jax.prediction import outputs
from frcnn_jax.prediction.found import Found
from frcnn_jax.prediction.predictor import OVERLAP, SCORE, Predictor
from frcnn_jax.training import devices

FLAGS = flags.FLAGS
cli.define_config(required=False)
cli.define_require()
flags.DEFINE_string("workdir", None, "Folder of a trained run.")
flags.DEFINE_string(
    "weights", None, "Weights file, with --config unless of convert.py; or a name."
)
flags.DEFINE_string("out", None, "Folder for pictures and predictions.", required=True)
flags.DEFINE_enum(
    "checkpoint", "latest", ["latest", "best"], "Of the workdir; best: by AP."
)
flags.DEFINE_float("score", SCORE, "Show detections from this score on.", 0.0, 1.0)
flags.DEFINE_list("classes", [], "Only these classes, as in --classes=person,dog.")
flags.DEFINE_bool("tta", False, "Also mirrored and at the short sides of training.")
flags.DEFINE_integer("tile", 0, "Also tiles of so many pixels, for large pictures.")
flags.DEFINE_float("overlap", OVERLAP, "Of tiles, as a share of their side.")
flags.DEFINE_list("save", ["pictures", "coco"], "Of pictures, coco, yolo, csv.")


def main(argv: list[str]) -> None:
    kinds, out = outputs.checked(FLAGS.save), Path(FLAGS.out)
    paths = pictures.find(argv[1:], sys.stdin)
    if "pictures" in kinds:
        pictures.drawings(paths, out)  # refuses to draw over one of them
    with runs.writing(out, "--out"):
        predict(paths, out, kinds)


def predict(paths: list[Path], out: Path, kinds: tuple[str, ...]) -> None:
    """Loads the model, looks at every picture and writes what was asked for."""
    devices.check(FLAGS.require)
    run = runs.chosen(FLAGS.config, FLAGS.workdir, FLAGS.weights)
    run = cli.checked(cli.with_fields(run))
    model = runs.trained(run, FLAGS.workdir, FLAGS.weights, FLAGS.checkpoint)
    # The files of results hold low scores too; the others are cut at --score.
    predictor = Predictor(
        model,
        score=0.0,
        classes=FLAGS.classes,
        tta=FLAGS.tta,
        tile=FLAGS.tile,
        overlap=FLAGS.overlap,
    )
    limit = run.data.max_image_pixels
    writer = outputs.Outputs(out, kinds, paths, score=FLAGS.score, max_pixels=limit)
    skipped: list[BadImage] = []
    for number, found in predictor.stream(paths, predictor.batch_size(len(paths))):
        if isinstance(found, BadImage):
            print(f"skipped: {found}", flush=True)
            skipped.append(found)
        else:
            shown = writer.add(number, found)
            print(f"{paths[number]}: {listed(shown)}", flush=True)
    if len(skipped) == len(paths):
        raise ValueError(f"none of {len(paths)} files could be read")
    written = writer.close(predictor.labels)
    if skipped:
        print(f"{len(skipped)} of {len(paths)} files could not be read")
    print(written)
    print(summary(predictor, len(paths) - len(skipped), writer.detections))


def listed(found: Found) -> str:
    """The classes of one picture, counted."""
    counts = Counter(dict.fromkeys(found.class_names, 0))
    counts.update(found.names.tolist())
    return (
        ", ".join(f"{n} {name}" for name, n in counts.items() if n) or "nothing found"
    )


def summary(predictor: Predictor, count: int, detections: int) -> str:
    """The last line: how much, how fast, and how long the device had no pictures."""
    times = predictor.times
    seconds = max(times.total, 1e-9)
    return (
        f"{count} pictures, {detections} detections, {count / seconds:.1f} img/s,"
        f" {times.waiting / seconds:.0%} of the time waiting for pictures"
        f" (compiling, {times.compiling:.1f} s, not counted)"
    )


if __name__ == "__main__":
    cli.run(main)
