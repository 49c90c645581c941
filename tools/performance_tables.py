"""The tables of docs/performance.md, from the newest lines of benchmarks/results.

Each function gives the Markdown of one section; `performance.py` puts them together.
Newest means: the last line of each machine, processor or accelerator, and setting.
"""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import curves

ROOT = Path(__file__).resolve().parents[1]
RESULTS, IMAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "images"
PEER_BOXES = "8"  # objects of an image in the peer's script unless told
NEAR = 3  # times its floor, up to which a stage is called bound by it

Line = dict[str, Any]


def lines(name: str) -> list[Line]:
    """Every line of a file of results, oldest first."""
    path = RESULTS / f"{name}.jsonl"
    return (
        [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []
    )


def owner(line: Line) -> Line:
    """The device that a line tells of; empty where JAX had no part in it."""
    return line.get("device") or line.get("ours", {}).get("device") or {}


def device(line: Line) -> str:
    """What a line was measured on: a processor and its cores, or an accelerator."""
    if owner(line).get("platform", "cpu") != "cpu":
        return owner(line)["kind"]
    return f"{line['machine']['cpu']}, {line['machine']['usable_cores']} cores"


def newest(found: Iterable[Line], *keys: str | Callable[[Line], Any]) -> list[Line]:
    """The last line of each device and setting, in the order of their first."""
    kept: dict[str, Line] = {}
    for line in found:
        values = [k(line) if callable(k) else line.get(k) for k in keys]
        kept[json.dumps([device(line), *values])] = line
    return list(kept.values())


def table(head: str, rows: Iterable[Sequence[str]]) -> str:
    """A table; columns whose name begins with a blank are words, others numbers."""
    names = head.split("|")
    rule = "".join("---|" if name.startswith(" ") else "---:|" for name in names)
    cells = ["| " + " | ".join(row) + " |" for row in rows]
    if not cells:
        return "Not recorded yet."
    return "\n".join(
        ["| " + " | ".join(map(str.strip, names)) + " |", f"|{rule}", *cells]
    )


def span(values: Sequence[float], middle: float, digits: int = 0) -> str:
    """A median with the least and the most."""
    ends = f"{min(values):.{digits}f} to {max(values):.{digits}f}"
    return f"{middle:.{digits}f} ({ends})"


def source(line: Line) -> list[str]:
    """Device, day and commit; a star where files differed from the commit."""
    commit = (line["commit"] or "none")[:7] + ("*" if line["dirty"] else "")
    return [device(line), line["date"][:10], commit]


def size(line: Line) -> str:
    return "x".join(map(str, line["size"]))


def program(mode: str) -> str:
    """What a mode is called."""
    return {"infer": "prediction", "train": "training step"}[mode]


def setting(line: Line) -> str:
    """Size, batch and type of the numbers."""
    said = f"{size(line)}, batch {line['batch']}, {line['dtype']}"
    precision = line.get("precision", "default")
    return said if precision == "default" else f"{said}, {precision}"


def switched_on(line: Line) -> str:
    """What was switched on for the peer, in words."""
    own = line["peer"]
    compiled = own.get("compile", "none")
    said = [] if compiled == "none" else [f"{compiled} by torch.compile"]
    return ", ".join(said + ["channels last"] * bool(own.get("channels_last")))


def boxes(line: Line) -> str:
    """Objects of a training image, and of the peer's where it had another number."""
    ours, words = line["ours"].get("boxes"), line["peer_args"].replace("=", " ").split()
    if ours is None:
        return ""
    flag = "--boxes-per-image"
    theirs = words[words.index(flag) + 1] if flag in words else PEER_BOXES
    return str(ours) if str(ours) == theirs else f"{ours}, peer {theirs}"


def compared() -> str:
    """Ours beside the peer."""

    def own(name):
        return lambda line: line["ours"][name]

    def row(line):
        ours, peer = line["ours"], line["peer"]
        named = f"{peer['lib']} {peer.get(peer['lib'], '')}".strip()
        memory = [line[side].get("peak_rss_mb") for side in ("ours", "peer")]
        upper = "" if line["repeats"] % 2 else "†"
        return [
            program(line["mode"]),
            ours["config"],
            setting(ours),
            boxes(line),
            span(line["ours_ms"], line["ours_median_ms"]),
            f"{span(line['peer_ms'], line['peer_median_ms'])}{upper}, "
            + ", ".join(filter(None, [named, switched_on(line)])),
            span(line["ratios"], statistics.median(line["ratios"]), 2) + upper,
            ", ".join("?" if mib is None else f"{mib:.0f}" for mib in memory),
            *source(line),
        ]

    keys = (own(name) for name in ("config", "size", "batch", "dtype", "precision"))
    found = newest(lines("compare"), "mode", switched_on, *keys)
    head = " what| configuration| size|boxes|ours ms|peer ms|ratio|MiB, ours and peer"
    return table(f"{head}| on| day| commit", map(row, found))


def staged() -> str:
    """A table of stages for each program."""
    parts = []
    keys = ("config", "size", "batch", "dtype", "precision", "mode")
    for line in newest(lines("stages"), *keys):
        what = f"A {program(line['mode'])}"
        where, day, commit = source(line)
        whole, together = line["whole_ms"], total(line)
        floors = sum(stage["floor_ms"] for stage in line["stages"])
        parts += [
            f"### {what}: {line['config']}, {size(line)}, batch {line['batch']},"
            f" {line['dtype']}",
            f"{where}, {day}, {commit}. Measured peak: {line['peak_gflops']:.0f}"
            f" GFLOP/s, {line['peak_gbs']:.1f} GB/s. Whole: {whole:.0f} ms; stages"
            f" one by one {together:.0f} ms; floors together {floors:.0f} ms,"
            f" {floors / whole:.0%} of the whole.",
            table(
                " stage|ms|share|GFLOP|MB|floor ms|x floor| bound by",
                (stage_row(stage, line) for stage in line["stages"]),
            ),
            bounds(line),
        ]
    return "\n\n".join(parts) or "Not recorded yet."


def total(line: Line) -> float:
    """Milliseconds of all stages, each measured by itself."""
    return sum(stage["median_ms"] for stage in line["stages"])


def stage_row(stage: Line, line: Line) -> list[str]:
    times = f"{stage['median_ms'] / stage['floor_ms']:.1f}" if stage["floor_ms"] else ""
    numbers = [
        f"{stage['median_ms']:.1f}",
        f"{stage['median_ms'] / total(line):.1%}",
    ]
    numbers += [
        f"{stage['gflop']:.1f}",
        f"{stage['mb']:.0f}",
        f"{stage['floor_ms']:.1f}",
    ]
    return [stage["stage"], *numbers, times, bound(stage, line)]


def bound(stage: Line, line: Line) -> str:
    """The resource that a stage uses up, as far as its floor explains its time."""
    if not stage["floor_ms"]:
        return ""
    if stage["median_ms"] > NEAR * stage["floor_ms"]:
        return "neither"
    arithmetic, memory = stage["gflop"] / line["peak_gflops"], stage["mb"] / 1e3
    return "arithmetic" if arithmetic > memory / line["peak_gbs"] else "memory"


def bounds(line: Line) -> str:
    """What takes the most time above its floor."""

    def above(stage):
        return stage["median_ms"] - stage["floor_ms"]

    first = sorted(line["stages"], key=above, reverse=True)[:3]
    said = [
        f"{stage['stage']} {above(stage):.0f} ms"
        f" ({above(stage) / total(line):.0%}, bound by {bound(stage, line)})"
        for stage in first
    ]
    return f"What bounds it now, in ms above the floor: {'; '.join(said)}."


def grown() -> str:
    """Costs and exponents of every axis, and the pictures."""
    head = " what| axis| from, to|ms|peak MiB|s to compile"
    head += "|time|memory|compiling| on| day| commit"
    rows = []
    for line, axis in growth():
        points, slopes = axis["points"], axis["exponents"]
        first, last = points[0], points[-1]
        ends = f"{first['value']}, {last['value']}"
        ends += f"; {axis['failed']['value']} failed" if axis["failed"] else ""
        memory = curves.memory(points)
        pairs = [("median_ms", 0), (memory, 0), ("compile_s", 1)]
        rows.append(
            [
                f"{program(line['mode'])}, {line['config']}, {size(line)},"
                f" {line['dtype']}",
                axis["axis"],
                ends,
                *(f"{first[f]:.{n}f} to {last[f]:.{n}f}" for f, n in pairs),
                *(slope(slopes[kind], kind in axis["superlinear"]) for kind in slopes),
                *source(line),
            ]
        )
    shown = [f"![Growth, {path.stem}](images/{path.name})" for path in pictures()]
    return "\n\n".join([table(head, rows), *shown])


def slope(value: float | None, steep: bool) -> str:
    said = "" if value is None else f"{round(value, 2) + 0.0:.2f}"  # no -0.00
    return f"**{said} superlinear**" if steep else said


def growth() -> list[tuple[Line, Line]]:
    """The newest line and entry of every axis that has points."""
    every = [
        {**line, "axes": [axis], "axis": axis["axis"]}
        for line in lines("growth")
        for axis in line["axes"]
        if axis["points"]
    ]
    kept = newest(every, "config", "size", "dtype", "mode", "axis")
    return [(line, line["axes"][0]) for line in kept]


def pictures() -> dict[Path, str]:
    """{file: drawing} of the newest curves of each mode, all from one setting."""

    def setting(line):
        return [
            line["mode"],
            device(line),
            *(line[k] for k in ("config", "size", "dtype")),
        ]

    found = {}
    for mode in ("infer", "train"):
        own = [pair for pair in growth() if pair[0]["mode"] == mode]
        if own:
            last = max(own, key=lambda pair: pair[0]["date"])[0]
            axes = [axis for line, axis in own if setting(line) == setting(last)]
            path = IMAGES / f"growth_{mode}.svg"
            found[path] = curves.svg(curves.panels(axes))
    return found


def loaded() -> str:
    """The input pipeline: images per second, then memory over epochs."""

    def row(line):
        rounds = line["rounds"]
        peer = line.get("peer_img_s")
        return [
            f"{line['data']}, {' '.join(line['sizes'])} to {line['short_side']}",
            f"batch {line['batch']}" + (", decoded in part" if line["reduced"] else ""),
            span(rounds["one_thread"], line["one_thread_img_s"]),
            f"{line['threads']}: {span(rounds['threads'], line['threads_img_s'])}",
            span(rounds["peer"], peer) if peer else "",
            *source(line),
        ]

    pipeline = [line for line in lines("data") if "data" in line]
    found = newest(pipeline, "data", "short_side", "batch", "threads", "reduced")
    head = " images| setting|one thread img/s|threads img/s|peer img/s| on| day| commit"
    parts = [table(head, map(row, found))]
    epochs = [line for line in lines("data") if "records" in line]
    for line in newest(epochs, "records", "epochs", "batch", "threads"):
        memory = line["rss_mb"]
        parts.append(
            f"{line['epochs']} epochs of {line['records']} small records: the process"
            f" held {memory[1]:.0f} MiB once it ran and {memory[-1]:.0f} MiB at the"
            f" end ({', '.join(source(line))})."
        )
    return "\n\n".join(parts)


def converted() -> str:
    """`convert.py` on whole files."""
    return table(
        " configuration| file|MB|seconds|of them imports|MiB beyond imports"
        "| on| day| commit",
        (
            [
                line["config"],
                line["format"],
                f"{line['file_mb']:.0f}",
                span([line["min_s"], line["max_s"]], line["median_s"], 1),
                f"{line['imports_s']:.1f}",
                f"{line['extra_mb']:.0f}",
                *source(line),
            ]
            for line in newest(lines("convert"), "config", "format")
        ),
    )


def saved() -> str:
    """What a checkpoint costs."""
    return table(
        " configuration|state MiB|blocks s|whole s|processor s"
        "|share of the steps between| on| day| commit",
        (
            [
                line["config"],
                f"{line['state_mb']:.0f}",
                f"{line['blocked_s']:.2f}",
                f"{line['whole_s']:.2f}",
                f"{line['processor_s']:.2f}",
                f"{line['share_percent']:.2f} % of {line['every']} of"
                f" {line['step_ms'] / 1e3:.1f} s",
                *source(line),
            ]
            for line in newest(lines("checkpoint"), "config")
        ),
    )


def scaled() -> str:
    """Collectives of a step over the number of devices."""
    return table(
        " configuration|devices| collectives|MB in them|MB that learn|share of bytes"
        "| day| commit",
        (
            [
                f"{line['config']}, {size(line)}, {line['dtype']}",
                str(part["devices"]),
                ", ".join(f"{n} {kind}" for kind, n in part["collectives"].items()),
                f"{part['collective_mb']:.1f}",
                f"{line['trainable_mb']:.1f}",
                f"{part['share_of_bytes']:.1%}",
                *source(line)[1:],
            ]
            for line in newest(lines("scaling"), "config", "size", "batch", "dtype")
            for part in line["scaling"]
        ),
    )


STARTED = ("cold_first_call_s", "cold_trace_s", "cold_lower_s", "cold_compile_s")
STARTED += ("cached_first_call_s", "cached_compile_s")


def started() -> str:
    """First calls, cold and from the cache, and what compiling consists of."""
    kept = [
        (mode, line)
        for mode in ("infer", "train")
        for line in newest(
            (line for line in lines("compile") if mode in line),
            *("config", "size", "batch", "dtype", "precision"),
        )
    ]
    found = [_compiling(mode, line) for mode, line in kept if line[mode].get("xla")]
    return "\n\n".join([_first_calls(kept), *found])


def _compiling(mode: str, line: dict[str, Any]) -> str:
    xla = line[mode]["xla"]
    rest = xla["whole_s"] - xla["passes_s"] - xla["kernels_s"] - xla["code_s"]
    return (
        f"Compiling the {program(mode)} of {line['config']}, {setting(line)}, under a"
        f" profiler: {xla['whole_s']:.1f} s, of which passes over the program"
        f" {xla['passes_s']:.1f} s, writing its {xla['kernels']} kernels"
        f" {xla['kernels_s']:.1f} s, their machine code {xla['code_s']:.1f} s, buffers"
        f" and the rest {rest:.1f} s ({source(line)[0]}, {source(line)[2]})."
    )


def _seconds(figures: dict[str, Any], part: str) -> str:
    if part not in figures:
        return ""
    kind, _, name = part.partition("_")
    every = figures.get(f"{kind}_all_s") if name == "first_call_s" else None
    return span(every, figures[part], 1) if every else f"{figures[part]:.1f}"


def _first_calls(kept) -> str:
    return table(
        " what| configuration|first call cold s|of it tracing|lowering|compiling"
        "|first call cached s|of it reading|later calls s| on| day| commit",
        (
            [
                program(mode),
                f"{line['config']}, {setting(line)}",
                *(_seconds(line[mode], part) for part in STARTED),
                f"{line[mode]['step_ms'] / 1e3:.1f}",
                *source(line),
            ]
            for mode, line in kept
        ),
    )


def waited() -> str:
    """From the command line to the first result."""
    return table(
        " command| until| configuration|imports s|cold s|with cache s| on| day| commit",
        (
            [
                f"{name}.py",
                {"predict": "the first picture", "train": "the first step"}[name],
                f"{line['config']}, {line['dtype']}"
                + (f", batch {line['batch']}" if name == "train" else ""),
                f"{line[name]['imports_s']:.1f}",
                *(
                    span(line[name][f"{kind}_all_s"], line[name][f"{kind}_s"], 1)
                    for kind in ("cold", "cached")
                ),
                *source(line),
            ]
            for line in newest(lines("cold_start"), "config", "batch")
            for name in ("predict", "train")
        ),
    )


def reported() -> str:
    """What a report costs, and how busy prediction keeps the device."""
    found = newest(lines("report"), "images", "classes")
    costs = table(
        "images|classes|detections|COCO metric s|report s|page MB|peak MiB"
        "| on| day| commit",
        (
            [
                *(str(line[n]) for n in ("images", "classes", "detections")),
                f"{line['metrics_s']:.1f}",
                f"{line['report_s']:.1f}",
                f"{line['page_mb']:.1f}",
                f"{line['peak_rss_mb']:.0f}",
                *source(line),
            ]
            for line in found
        ),
    )
    told = [
        f"`predict.py` with {one['config']} on {one['pictures']} pictures, drawn:"
        f" {one['images_per_s']:.1f} pictures a second, {one['waiting_percent']} % of"
        f" the time waiting for pictures ({', '.join(source(line))})."
        for line in found
        if (one := line["prediction"])
    ]
    return "\n\n".join([costs, *told])


def exported() -> str:
    """The forms in which a detector can be taken along."""
    called = {
        "predict": "this project",
        "stablehlo": "StableHLO",
        "onnx": "ONNX, onnxruntime",
    }
    return table(
        " form| configuration|MB|cold start s|with cache s|ms an image"
        "| on| day| commit",
        (
            [
                called[name],
                f"{line['config']}, {setting(line)}",
                "" if form["mb"] is None else f"{form['mb']:.0f}",
                f"{form['cold_s']:.1f}",
                "" if form["cached_s"] is None else f"{form['cached_s']:.1f}",
                span([form["min_ms"], form["max_ms"]], form["median_ms"]),
                *source(line),
            ]
            for line in newest(
                lines("export"), "config", "size", "batch", "dtype", "precision"
            )
            for name, form in line["forms"].items()
        ),
    )
