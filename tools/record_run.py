"""Adds a finished training run to the results: one line of JSON for its folder.

    python tools/record_run.py runs/demo --name=demo

Reads `config.json`, `eval.json` and `metrics.jsonl` of the folder, prints the line and
appends it to `benchmarks/results/<name>.jsonl` (--results names another folder).

Scores are those of `eval.json`, 0..1; `scored_again` says that they differ from the
last evaluation during training. Speed is the median of the reports, which leave out
compiling; `reported_s` is the time that these reports cover. `wall_s` runs from the
writing of `config.json` to the last line of `metrics.jsonl`, evaluations included; it
is null where the dates cannot be true: the run was continued, or its folder copied.
Machine, versions and commit are those of this process: run it where the training ran,
before the code changes. What is on the paths of data and weights stays out, only their
last names are kept.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

from benchmarks import record  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Records the run that the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path, help="folder of a finished run")
    parser.add_argument("--name", required=True, help="of the file of results")
    parser.add_argument("--results", type=Path, default=record.RESULTS, metavar="DIR")
    asked = parser.parse_args(arguments)
    if not re.fullmatch(r"[\w.-]+", asked.name):
        parser.error(f"--name={asked.name}: letters, digits, '.', '_' and '-' only")
    try:
        figures = describe(asked.workdir)
    except (ValueError, FileNotFoundError) as error:
        print(f"record_run: {error}", file=sys.stderr)
        return 1
    record.emit(asked.name, figures, asked.results)
    return 0


def describe(workdir: Path) -> dict[str, Any]:
    """The figures of a run's folder.

    Errors: FileNotFoundError for a file that training leaves; ValueError for reports
    without a final evaluation, or a broken file.
    """
    files = {n: workdir / n for n in ("config.json", "eval.json", "metrics.jsonl")}
    missing = [name for name, path in files.items() if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{workdir} has no {' and no '.join(missing)}: it is not the folder of a"
            " run that train.py finished"
        )
    run = _parsed(files["config.json"])["run"]
    scores = _parsed(files["eval.json"])
    scores = {k: v for k, v in scores.items() if k.startswith(("AP", "AR"))}
    lines = _lines(files["metrics.jsonl"])
    final = lines[-1] if lines else {}
    if "eval/AP" not in final:
        raise ValueError(
            f"{files['metrics.jsonl']} does not end with an evaluation: the run is not"
            " finished; continue it with the same train.py command"
        )
    wall = files["metrics.jsonl"].stat().st_mtime - files["config.json"].stat().st_mtime
    return {
        "workdir": workdir.resolve().name,
        **settings(run),
        "steps": final["step"],
        "scores": scores,
        "scored_again": scores.get("AP") != final["eval/AP"],
        **speed(lines, run["train"]["batch_size"], wall),
    }


def settings(run: dict[str, Any]) -> dict[str, Any]:
    """What tells this run from another one, from its `config.json`."""
    data, model, init = run["data"], run["model"], run["init"]
    return {
        "seed": run["seed"],
        "batch_size": run["train"]["batch_size"],
        "data": Path(data["root"]).name,
        "split": run["eval"]["split"] or data["val"],
        "short_sides": data["short_sides"],
        "max_side": data["max_side"],
        "depth": model["backbone"]["depth"],
        "num_classes": model["num_classes"],
        "dtype": model["dtype"],
        "init": Path(init["load"]).name or None,
    }


def speed(lines: list[dict[str, Any]], batch: int, wall: float) -> dict[str, Any]:
    """Median images/s of the reports, the seconds they cover, and the wall seconds."""
    reports = [line for line in lines if "images_per_s" in line]
    if not reports:
        return {"images_per_s": None, "reported_s": None, "wall_s": None}
    steps = [0, *(line["step"] for line in reports)]
    done = [b - a for a, b in zip(steps, steps[1:], strict=False)]
    done[0] -= 1  # the first step compiles and is in no report
    seconds = sum(
        count * batch / line["images_per_s"]
        for count, line in zip(done, reports, strict=True)
    )
    whole = min(done) >= 0 and wall >= 0.99 * seconds
    return {
        "images_per_s": round(statistics.median(r["images_per_s"] for r in reports), 3),
        "reported_s": round(seconds, 1) if min(done) >= 0 else None,
        "wall_s": round(wall, 1) if whole else None,
    }


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(text) for text in texts]
    except ValueError as error:
        raise ValueError(f"{path} has a line that is no JSON: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
