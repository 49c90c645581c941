"""Draws detections: python predict.py --workdir=DIR IMAGE_OR_DIR... --out=DIR.

Instead of a workdir: --config=... --weights=FILE; without --config a file of
convert.py, or the name of published weights, --weights=mmdet:r50_fpn_1x
(`eval.py --weights=mmdet:` lists them). Writes one picture per image and
`predictions.json` in COCO results format.
"""

import json
from pathlib import Path

import numpy as np
from absl import flags

from frcnn_jax import build, cli, labels, runs, vis
from frcnn_jax.data import pictures, transforms
from frcnn_jax.evaluation.results import to_results
from frcnn_jax.training import devices, distributed, step
from frcnn_jax.types import Detections

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
flags.DEFINE_float("score", 0.5, "Draw detections from this score on.", 0.0, 1.0)


def main(argv: list[str]) -> None:
    paths = pictures.find(argv[1:])
    devices.check(FLAGS.require)
    run = runs.chosen(FLAGS.config, FLAGS.workdir, FLAGS.weights)
    run = cli.checked(cli.with_fields(run))
    model = runs.trained(run, FLAGS.workdir, FLAGS.weights, FLAGS.checkpoint)
    classes = model.labels or labels.guessed(run)
    out = Path(FLAGS.out)
    places = pictures.drawings(paths, out)
    out.mkdir(parents=True, exist_ok=True)
    mesh = distributed.make_mesh(1)
    predict = step.make_predict_step(build.detector(run.model), mesh)
    variables = distributed.replicate(model.variables, mesh)
    numbers, results, drawn = list(range(len(paths))), [], 0
    batch_size = min(run.eval.batch_size, len(paths))
    for arrays, rows in pictures.batches(paths, run.data, batch_size):
        found = predict(variables, distributed.to_batch(arrays, mesh))
        found = distributed.to_host(found)
        results += to_results(found, arrays["image_id"], numbers, classes.category_ids)
        for i, (number, path) in enumerate(rows):
            one = Detections(*(part[i] for part in found))
            limit = run.data.max_image_pixels
            drawn += draw(path, limit, one, classes.class_names, places[number])
    for result in results:
        result["file_name"] = str(paths[result["image_id"]])
    (out / "predictions.json").write_text(json.dumps(results, indent=1) + "\n")
    print(
        f"{drawn} detections with score >= {FLAGS.score:g} drawn into {out};"
        f" all {len(results)} are in {out / 'predictions.json'}"
    )


def draw(
    path: Path, limit: int, found: Detections, names: tuple[str, ...], place: Path
) -> int:
    """Writes one picture, of at most `limit` pixels, and says what is on it."""
    shown = (found.labels > 0) & (found.scores >= FLAGS.score)
    boxes, labels, scores = found.boxes[shown], found.labels[shown], found.scores[shown]
    image = transforms.decode(path, limit)
    picture = vis.draw(image, boxes, labels, scores, class_names=names)
    vis.save(picture, place)
    counts = zip(*np.unique(labels, return_counts=True), strict=True)
    listed = ", ".join(f"{count} {names[label - 1]}" for label, count in counts)
    print(f"{path}: {listed or 'nothing found'}", flush=True)
    return int(shown.sum())


if __name__ == "__main__":
    cli.run(main)
