"""Trains a detector: python train.py --config=configs/r50_fpn_1x.py --workdir=DIR.

Any field can be set with --config.section.field=value. The same command continues a run
that was stopped.
"""

if __name__ == "__main__":  # before the seconds that importing the rest takes
    from frcnn_jax.training.stop import leave_at_once

    leave_at_once()

import json
import shlex
import time
from functools import partial
from pathlib import Path

import jax
from absl import flags

from frcnn_jax import build, cli, config, dry_run, home, labels, panels, runs, terminal
from frcnn_jax.convert import files
from frcnn_jax.doctor import quick
from frcnn_jax.evaluation import score
from frcnn_jax.report import material
from frcnn_jax.report.write import FILE, write
from frcnn_jax.terminal import duration
from frcnn_jax.training import devices, distributed, loop, schedule, tracker
from frcnn_jax.training.checkpoint import BEST, Checkpoints
from frcnn_jax.training.log import MetricLog
from frcnn_jax.training.stop import Stop, Stopped, leave_at_once
from frcnn_jax.training.trace import traced

FLAGS = flags.FLAGS
cli.define_config(required=True)
cli.define_require()
cli.define_processes()
flags.DEFINE_string("workdir", None, "Folder of this run.")
flags.DEFINE_integer("devices", 0, "Use only the first N devices; 0 = all.")
flags.DEFINE_bool("dry_run", False, "Compile, say what the run needs, and end.")


def main(argv: list[str]) -> None:
    cli.refuse_extra(argv)
    if FLAGS.workdir is None and not FLAGS.dry_run:
        raise ValueError("name the folder of this run with --workdir=DIR")
    run = cli.checked(FLAGS.config)
    tracker.check(run.train.wandb)
    if (who := cli.processes()) is not None:
        distributed.join(**who)
        leave_at_once()  # JAX has taken SIGTERM over
    devices.check(FLAGS.require)
    if FLAGS.dry_run:
        mesh = distributed.make_mesh(FLAGS.devices)
        run = dry_run.with_data(run)
        terminal.show(dry_run.table(dry_run.needs(run, mesh), run, mesh))
        return
    with distributed.ending_together(), runs.writing(Path(FLAGS.workdir)):
        train(run, Path(FLAGS.workdir), FLAGS.devices)


def train(run: config.Run, workdir: Path, devices: int = 0) -> None:
    start, first = time.perf_counter(), distributed.is_first()
    mesh = distributed.make_mesh(devices)
    if run.init.load:
        files.check(run.init.load)  # before the minutes that reading data may take
    run, data, val = build.datasets(run)
    if first:
        for oddity in quick.warnings(run, data, val):
            print(f"warning: {oddity}", flush=True)
    if first:
        runs.save_run(workdir, run, labels.of_data(data), data, cli.file_given())
    evaluator = build.Evaluator(run, val, mesh)

    last = None  # metrics and detections of this session's last evaluation

    def evaluate(variables, done):
        nonlocal last
        last = None  # detections may be large: not two of them at once
        results = evaluator.results(variables, stop.check)
        metrics = {"step": done, **evaluator.metrics(results)}
        last = (metrics, results) if first else None
        head = f"evaluation after step {done}, {val.name}:"
        terminal.show([head, *score.table(metrics)])
        if first:
            score.save(metrics, workdir / "eval.json")
        draw(run, val, results, done, log)
        if losses := evaluator.losses(variables):
            print(f"loss on {val.name}: {losses['loss']:.4f}", flush=True)
        return metrics | losses

    keep, effort = run.train.keep_checkpoints, run.train.save_best_effort

    def write_report():
        if first and (last is not None or not (workdir / FILE).exists()):
            report(run, [data, val], last, workdir)

    with Stop() as stop, Checkpoints(workdir, keep, best_effort=effort) as saves:
        saved = saves.latest
        batches = build.train_batches(run, data, 0)
        plan = build.plan(run, batches.schedule)
        state, tx = build.training_state(
            run, mesh, plan, load=saved is None, class_names=data.class_names
        )
        if saved is not None:
            state = saves.restore(state)
            print(f"continuing {workdir} at step {state.step} of {plan.total}")
        elif warning := build.scratch_warning(run):
            print(warning)
        batches.start_at(int(state.step))
        log = MetricLog(
            *(workdir, int(state.step)),
            quiet=not first,
            wandb=run.train.wandb,
            settings=json.loads(config.to_json(run)),
        )
        describe(run, state, batches, plan, mesh)
        rails = loop.Rails(
            *(plan, evaluate, saves, log, stop),
            name_rows=partial(build.image_names, data),
            dumps=workdir / "nonfinite",
        )
        done, profile = int(state.step), (run.train.profile, workdir / "profile")
        steps = terminal.track(batches, "training", plan.total, done=done, every=0)
        try:
            state = loop.fit(
                state,
                traced(build.train_step(run, tx, mesh), *profile),
                steps,
                rails=rails,
                train=run.train,
                key=jax.random.key(run.seed),
                mesh=mesh,
            )
        except Stopped:
            write_report()
            raise
        finally:
            steps.close()
            batches.close()
            log.close()
    for split, read in ((data.name, batches), (val.name, evaluator.batches)):
        if odd := build.oddities(split, read):
            print(odd)
    write_report()
    took = duration(time.perf_counter() - start)
    print(f"finished {state.step} steps in {workdir} (this session {took})")
    print(next_steps(workdir, log.scores()))


def draw(run: config.Run, val, results, done: int, log: MetricLog) -> None:
    """Shows a few images with predictions beside ground truth, where anyone looks."""
    if not (log.shows_pictures and run.train.pictures):
        return
    limit, score = run.data.max_image_pixels, run.train.picture_score
    for record in panels.chosen(val, run.train.pictures):
        drawn = panels.panel(record, val, results, max_pixels=limit, score=score)
        if drawn is not None:
            log.picture(done, f"val/{record.source_id}", drawn)


def next_steps(workdir: Path, scores: dict[int, float | None]) -> str:
    """Where the best checkpoint is, and the commands that go on from here."""
    best, which, lines = loop.best(scores), "", []
    if best is not None and (workdir / BEST).is_dir():
        which = f" --checkpoint={BEST}"
        lines = [f"best: step {best} of AP {scores[best]:.3f}, in {workdir / BEST}"]
    folder = shlex.quote(str(workdir))
    model = f"--workdir={folder}{which}"
    lines += [
        f"draw detections:\n  {home.command('predict.py')} {model} PICTURES",
        f"see what fails:\n  {home.command('eval.py')} {model} --report --pictures",
        f"deploy:\n  {home.command('tools/export.py')} {model} --out={folder}/export",
    ]
    return "\n".join(lines)


def report(run: config.Run, splits, last, workdir: Path) -> None:
    """Writes the report of a run that is done; without an evaluation it says so."""
    base = material.base(cli.file_given())
    told = material.of_run(workdir.resolve().name, run, base, splits, workdir)
    if last is not None:
        told = material.scored(told, *last)
    write(told, workdir)
    print(f"report: {workdir / FILE}")


def describe(run: config.Run, state, batches, plan: loop.Plan, mesh) -> None:
    """Prints what is about to happen."""
    count = sum(x.size for x in jax.tree.leaves(state.variables["params"]))
    buckets = ", ".join(f"{h}x{w}" for h, w in batches.buckets)
    waits = "; compiling a program for each, once, please wait: it may take minutes"
    if not jax.config.jax_compilation_cache_dir:
        waits += " (JAX_COMPILATION_CACHE_DIR=DIR keeps it for the next start)"
    print(
        f"{plan.total} steps of {run.train.batch_size} images on {mesh.size}"
        f" {jax.devices()[0].platform} device(s); {schedule.text(run.train)};"
        f" {count / 1e6:.1f} M parameters; canvases {buckets}"
        + (waits if int(state.step) < plan.total else ""),
        flush=True,
    )


if __name__ == "__main__":
    cli.run(main)
