"""How cost grows: time, memory and compiling over one size at a time.

    python benchmarks/growth.py --mode=infer --axis=all --picture=growth.svg --save
    python benchmarks/growth.py --mode=train --axis=boxes --points=1,100,1000

Every point is `inference.py` or `train_step.py` in a process of its own, so that peak
memory is its own, without a compilation cache, so that compiling is compiling. The
other sizes stay at the configuration's, one image of `--size`. An axis ends at the
first point that fails, for want of memory as a rule, and the line says so.

| axis | counts | prediction | training |
|---|---|---|---|
| batch | images | of a call | of a step |
| size | pixels | of an image | of an image |
| proposals | proposals | after suppression | after suppression, before sampling |
| classes | classes | without background | without background |
| boxes | boxes of an image | most that are returned | ground truth |

`exponents` are slopes of log cost over log count in the upper half of the points; those
above 1.15 are listed as `superlinear`. Peak memory is the device's where it keeps
count, else the process's, which begins at some hundred MiB. How many boxes pass the
score threshold under random weights depends on the number of classes, and suppression
on it: `detections` beside each point tells.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

from benchmarks import curves, record  # noqa: E402

HERE = Path(__file__).resolve().parent
SCRIPTS = {"infer": HERE / "inference.py", "train": HERE / "train_step.py"}
POINTS = {
    "batch": "1,2,4,8,16,32",
    "size": "320x416,480x640,640x832,800x1056,1024x1344",
    "proposals": "100,200,500,1000,2000",
    "classes": "1,10,80,300,1000",
    "boxes": "1,10,100,300,1000",
}
UNITS = {"batch": "images", "size": "pixels"}  # the others count themselves
SHARED = ("config", "size", "dtype", "warmup", "repeats", "seed")
KEPT = ("median_ms", "min_ms", "max_ms", "min_cpu_ms")
KEPT += ("compile_s", "peak_rss_mb", "programs")
HEAD = f"{'ms':>10}{'least':>10}{'most':>10}{'compile s':>11}{'peak MiB':>10}"


def main() -> None:
    asked = arguments()
    shown = POINTS if asked.axis == "all" else (asked.axis,)
    axes, device = [], None
    for axis in shown:
        values = (asked.points or POINTS[axis]).split(",")
        found, device = measured(asked, axis, values, device)
        axes.append(found)
    if device is None:
        raise SystemExit("growth: no point could be measured; see above")
    figures = {name: getattr(asked, name) for name in SHARED}
    figures |= {"config": Path(asked.config).stem, "mode": asked.mode, "batch": 1}
    figures["size"] = [int(side) for side in asked.size.split("x")]
    record.emit("growth", figures | {"axes": axes, "device": device}, asked.save)
    if asked.picture:
        asked.picture.parent.mkdir(parents=True, exist_ok=True)
        asked.picture.write_text(curves.svg(curves.panels(axes)), encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", choices=tuple(SCRIPTS), default="infer")
    parser.add_argument("--axis", choices=(*POINTS, "all"), default="all")
    parser.add_argument("--points", help="other values of the axis, rising: 1,2,4")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="draws it")
    parser.add_argument("--config", default="configs/r50_fpn_1x.py")
    parser.add_argument("--size", default="320x416", metavar="HxW")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    record.add_save(parser)
    asked = parser.parse_args()
    if asked.points and asked.axis == "all":
        parser.error("--points needs the --axis that they are of")
    if asked.picture and asked.picture.suffix != ".svg":
        parser.error(f"--picture={asked.picture}: the name must end in .svg")
    given = asked.points.split(",") if asked.points else ()
    for axis, value in [("size", asked.size), *((asked.axis, v) for v in given)]:
        try:
            count(axis, value)
        except ValueError:
            parser.error(f"{value!r} is no {axis}")
    return asked


def count(axis: str, value: str) -> int:
    """A point in the units of its axis. Errors: ValueError."""
    if axis != "size":
        number = int(value)
    else:
        height, width = value.split("x")
        number = int(height) * int(width)
    if number < 1:
        raise ValueError(value)
    return number


def measured(
    asked: argparse.Namespace, axis: str, values: list[str], device: Any
) -> tuple[dict[str, Any], Any]:
    """The curve over one axis, and the device it ran on (`device` where none did)."""
    points, failed = [], None
    print(f"{asked.mode}, {axis:<20}{HEAD}", file=sys.stderr)
    for value in values:
        try:
            line = record.from_process(
                command(asked, axis, value), {"JAX_ENABLE_COMPILATION_CACHE": "false"}
            )
        except RuntimeError as error:
            failed = {"value": value, "why": str(error)}
            print(f"{value:>27}  failed: larger ones are left out", file=sys.stderr)
            break
        points.append(point(axis, value, line))
        device = {name: line["device"][name] for name in ("platform", "kind")}
        print(row(points[-1]), file=sys.stderr, flush=True)
    slopes = exponents(points)
    steep = [name for name, slope in slopes.items() if (slope or 0) > curves.STEEP]
    said = ", ".join(
        f"{name} {'none' if slope is None else slope}"
        + (" SUPERLINEAR" if name in steep else "")
        for name, slope in slopes.items()
    )
    print(f"exponents: {said}\n", file=sys.stderr, flush=True)
    found = {"axis": axis, "unit": UNITS.get(axis, axis), "points": points}
    found |= {"exponents": slopes, "superlinear": steep, "failed": failed}
    return found, device


def command(asked: argparse.Namespace, axis: str, value: str) -> list[str | Path]:
    """The command line of one point."""
    words = {name: getattr(asked, name) for name in SHARED} | {"batch": 1}
    # Prediction never reads ground truth: what it has of boxes is what it returns.
    words["max-detections" if (axis, asked.mode) == ("boxes", "infer") else axis] = (
        value
    )
    options = [f"--{name}={word}" for name, word in words.items()]
    return [sys.executable, SCRIPTS[asked.mode], *options]


def point(axis: str, value: str, line: record.Line) -> dict[str, Any]:
    """What is kept of a child's line."""
    memory = line["device"]["memory"] or {}
    found = {"value": value, "units": count(axis, value)}
    found |= {name: line[name] for name in KEPT}
    found["device_mb"] = memory.get("peak_mb_in_use")
    if "detections" in line:
        found["detections"] = statistics.mean(line["detections"])
    return found


def row(found: dict[str, Any]) -> str:
    """A point for people."""
    times = (f"{found[name]:>10.1f}" for name in KEPT[:3])
    memory = found[curves.memory([found])]
    rest = f"{found['compile_s']:>11.1f}{memory:>10.0f}"
    return f"{found['value']:>27}{''.join(times)}{rest}"


def exponents(points: list[dict[str, Any]]) -> dict[str, float | None]:
    """The slope of each cost."""
    fields = {"time": "median_ms", "memory": curves.memory(points)}
    fields["compile"] = "compile_s"
    sizes = [point["units"] for point in points]
    return {
        name: curves.exponent(sizes, [point[field] for point in points])
        for name, field in fields.items()
    }


if __name__ == "__main__":
    main()
