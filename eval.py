"""Scores a detector: python eval.py --config=... --workdir=DIR, or --weights=FILE.

With a workdir its own configuration and newest checkpoint are used (fields given on the
command line win) and `eval.json` is written there. Names of published weights,
--weights=mmdet:r50_fpn_1x, and files of convert.py need no configuration;
--weights=mmdet: lists the names.
--pictures also draws predictions beside ground truth; --report also writes why AP is
what it is, as figures and as one page, report.html: docs/evaluation.md.
Several processes share the images as in training: docs/tpu.md.
"""

import json
from pathlib import Path

from absl import flags

from frcnn_jax import build, cli, config, panels, runs, terminal, vis
from frcnn_jax.data import pictures, records
from frcnn_jax.evaluation import analysis, score
from frcnn_jax.report import material
from frcnn_jax.report.write import write
from frcnn_jax.training import devices, distributed

FLAGS = flags.FLAGS
cli.define_config(required=False)
cli.define_require()
cli.define_processes()
flags.DEFINE_string("workdir", None, "Folder of a run to score.")
flags.DEFINE_string("weights", None, "Weights file or name to score, not a checkpoint.")
flags.DEFINE_string("out", None, "Where to write; default: the workdir.")
flags.DEFINE_bool("pictures", False, "Draw predictions beside ground truth.")
flags.DEFINE_bool("report", False, "Analyse errors, curves, confusion, calibration.")
flags.DEFINE_enum(
    "checkpoint", "latest", ["latest", "best"], "Of the workdir; best: by AP."
)
flags.DEFINE_float(
    "score", 0.5, "Draw, and count as confusion, from this score on.", 0.0, 1.0
)


def main(argv: list[str]) -> None:
    cli.refuse_extra(argv)
    if (who := cli.processes()) is not None:
        distributed.join(**who)
    devices.check(FLAGS.require)
    run = runs.chosen(FLAGS.config, FLAGS.workdir, FLAGS.weights)
    run = cli.checked(cli.with_fields(run))
    out = Path(FLAGS.out or FLAGS.workdir or "runs/eval")
    with distributed.ending_together(), runs.writing(out, "--out"):
        evaluate(run, out)


def evaluate(run: config.Run, out: Path) -> None:
    """Scores on every device; the first process writes and draws."""
    loaded, data = load(run)
    mesh = distributed.make_mesh()
    evaluator = build.Evaluator(loaded.run, data, mesh)
    results = evaluator.results(distributed.replicate(loaded.variables, mesh))
    if not distributed.is_first():
        return
    metrics = {"step": loaded.step, **evaluator.metrics(results)}
    score.save(metrics, out / "eval.json")
    (out / "results.json").write_text(json.dumps(results) + "\n")
    terminal.show([f"{loaded.source} on {data.name}", *score.table(metrics)])
    if odd := build.oddities(data.name, evaluator.batches):
        print(odd)
    print(f"scores: {out / 'eval.json'}\ndetections: {out / 'results.json'}")
    if FLAGS.report:
        report(loaded, data, results, metrics, out)
    if FLAGS.pictures:
        folder = out / "pictures"
        count = draw(data, results, folder, loaded.run, FLAGS.score)
        print(f"pictures: {folder} ({count} images and sheet.jpg)")


def load(run: config.Run) -> tuple[runs.Trained, records.Dataset]:
    """The model and the data to score it on, their classes in the same order."""
    data = build.dataset(run, run.eval.split or run.data.val, training=False)
    if FLAGS.workdir is None:
        run = build.with_classes(run, data)
    loaded = runs.trained(run, FLAGS.workdir, FLAGS.weights, FLAGS.checkpoint)
    if loaded.labels:
        data = records.align_classes(data, loaded.labels.class_names)
    return loaded, data


def report(loaded: runs.Trained, data, results, metrics, out: Path) -> None:
    """Writes analysis and page of these results and prints the types of error."""
    title = f"{Path(loaded.source).name} on {data.name}"  # without folders above it
    own = runs.config_file(FLAGS.workdir) if FLAGS.workdir else None
    base = material.base(cli.file_given() or own)
    splits = [*learned(loaded.run, data), data]
    told = material.of_run(title, loaded.run, base, splits, FLAGS.workdir)
    told = material.scored(told, metrics, results, FLAGS.score)
    analysis.save(told.found, out)
    terminal.show(analysis.table(told.found))
    names = write(told, out)
    print(f"analysis: {', '.join(str(out / name) for name in analysis.FILES)}")
    print(f"report: {', '.join(str(out / name) for name in names)}")


def learned(run: config.Run, data: records.Dataset) -> list[records.Dataset]:
    """The training split of a run's folder, to stand beside the scored one."""
    if FLAGS.workdir is None or data.name == run.data.train:
        return []
    try:
        return [build.dataset(run, run.data.train, training=True)]
    except (OSError, ValueError) as error:
        print(f"the report is without the training split: {error}")
        return []


def draw(data, results, folder: Path, run: config.Run, score: float) -> int:
    """Writes predictions beside ground truth for evenly chosen images, and a sheet."""
    folder.mkdir(parents=True, exist_ok=True)
    limit = run.data.max_image_pixels
    shown = panels.chosen(data, run.eval.max_pictures)
    places = pictures.drawings([Path(str(r.path)) for r in shown], folder)
    drawn = []
    for record, place in zip(shown, places, strict=True):
        panel = panels.panel(record, data, results, max_pixels=limit, score=score)
        if panel is not None:
            vis.save(panel, place)
            drawn.append(panel)
    if drawn:
        vis.save(vis.contact_sheet(drawn, 2), folder / "sheet.jpg")
    return len(drawn)


if __name__ == "__main__":
    cli.run(main)
