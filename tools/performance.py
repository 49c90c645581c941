"""Writes docs/performance.md: what is quick, what bounds it, how to get the most.

    python tools/performance.py            # writes the page and its pictures
    python tools/performance.py --check    # says whether they are up to date

No figure on the page is typed. Tables hold the newest line of `benchmarks/results` for
each machine and setting; advice is written by hand in `performance_advice.md` beside
this, with names in braces where figures belong. What no line tells is called so.
"""

import argparse
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs uninstalled too

from tools import performance_tables as tables  # noqa: E402

PAGE = ROOT / "docs" / "performance.md"
ADVICE = Path(__file__).with_name("performance_advice.md")
UNKNOWN = "(not recorded)"
NEVER = "**Never measured here**: what follows is known from JAX, not from timing."
CONFIG, SIZE = "r50_fpn_1x", [800, 1216]  # what the advice speaks of
LIGHT = "torchvision_mobilenet_320_fpn"
FILES = (
    "architectures",
    "checkpoint",
    "cold_start",
    "compare",
    "compile",
    "convert",
    "data",
    "export",
    "growth",
    "report",
    "scaling",
    "stages",
)

HEAD = """# Performance

What this project takes in time and memory, what bounds it, and how to get the most.
This page is written by `tools/performance.py` (`make results`) from
`benchmarks/results`; no figure in it is typed. Tables show the newest line of each
machine and setting, a median with the least and the most in parentheses; weights are
random ones under which objects are found. A commit with a star was measured with
changes that it does not contain. [benchmarks/README.md](../benchmarks/README.md) says
what each script measures; time of every architecture is in [results.md](results.md)."""

WAITED = "As a user waits, from the command line on (`benchmarks/cold_start.py`):"

SECTIONS = (
    (
        "Beside the peer",
        "Both sides in turn, each in its own process. Below 1, ours is quicker; a ratio"
        " is the median of those of the rounds. †: rounds of an even number of calls,"
        " of which the peer's script names the slower of the middle two: its time is"
        " too high there and the ratio too low.",
        tables.compared,
    ),
    (
        "Where the time goes",
        "Each stage compiled and timed by itself; shares are of their sum, which"
        " differs from the whole, compiled as one. A floor is the time of its"
        " operations at the speed of a large matrix product or of its bytes at the"
        " speed of a large copy, whichever is more; bound by neither: more than"
        f" {tables.NEAR} times that. Loops whose length depends on data count once, so"
        " their floor is too low. Operations are those of the definition: on CPUs long"
        " 3x3 convolutions take a quarter of the products (`ops/winograd.py`), so a"
        " stage may be quicker than its floor.",
        tables.staged,
    ),
    (
        "How cost grows",
        "One size at a time (`benchmarks/growth.py`). An exponent of 1 is twice the"
        " cost for twice the count, pixels for the image size; it is fitted to the"
        " upper half of the points.",
        tables.grown,
    ),
    ("Input pipeline", "Decoding, resizing, mirroring and batching.", tables.loaded),
    (
        "Conversion",
        "`convert.py` on a peer's file, the whole process.",
        tables.converted,
    ),
    (
        "Checkpoints",
        "Saving a whole training state. Only the copy off the device blocks; the share"
        " is that of all its processor time.",
        tables.saved,
    ),
    (
        "Several devices",
        "What devices exchange in one training step, read from the compiled program,"
        " beside the parameters that learn and all bytes that one device touches."
        " [tpu.md](tpu.md) projects from it. No times: virtual CPU devices share their"
        " cores.",
        tables.scaled,
    ),
    (
        "Cold start",
        "First call of a process without and with JAX's compilation cache; what its"
        " parts leave is the first run, which is slower than later ones. R-101 has 17"
        " unrolled blocks more than R-50: the difference of their rows is what they"
        " cost.",
        lambda: "\n\n".join([tables.started(), WAITED, tables.waited()]),
    ),
    (
        "Reports",
        "COCO's numbers of images and classes, detections drawn by chance"
        " (`benchmarks/report.py`).",
        tables.reported,
    ),
    (
        "Exports",
        "Each form in processes of its own (`benchmarks/export.py`): what its files"
        " weigh, from the start of the process to the first detections, without and"
        " with JAX's compilation cache, then one image at a time. "
        "[export.md](export.md) says how they are made.",
        tables.exported,
    ),
)


def page() -> str:
    """The text of docs/performance.md."""
    where = f"Measured on {'; '.join(devices()) or 'nothing yet'}. {absent()}"
    parts = [HEAD, wrapped(where.strip())]
    for title, words, section in SECTIONS:
        parts += [f"## {title}", wrapped(words), section()]
    parts.append(ADVICE.read_text().strip().format_map(facts()))
    return "\n\n".join(parts) + "\n"


def wrapped(text: str) -> str:
    """A paragraph in lines of the house's width."""
    return textwrap.fill(text, 88, break_long_words=False, break_on_hyphens=False)


def devices() -> list[str]:
    """Everything that any line was measured on."""
    return sorted(
        {tables.device(line) for name in FILES for line in tables.lines(name)}
    )


def platforms() -> set[str]:
    """JAX's names of the kinds of device among them."""
    owners = (tables.owner(line) for name in FILES for line in tables.lines(name))
    return {owner.get("platform", "cpu") for owner in owners}


def absent() -> str:
    """Accelerators that no line comes from."""
    missing = [name.upper() for name in ("gpu", "tpu") if name not in platforms()]
    return f"Never measured: {', '.join(missing)}." if missing else ""


class Facts(dict):
    """Figures by name; one that is not recorded says so."""

    def __missing__(self, name: str) -> str:
        """Errors: KeyError for a name that no fact has, a slip of the advice."""
        if name not in NAMES:
            raise KeyError(f"{ADVICE.name}: no figure is called {{{name}}}")
        return UNKNOWN


def facts() -> Facts:
    """What the advice may quote: figures of the newest line each, as texts."""
    found, seen = Facts(), platforms()
    for name in ("gpu", "tpu"):
        found[f"{name}_measured"] = "" if name in seen else NEVER
    found["half_measured"] = half_measured()
    if lighter := _beside(lambda line: line["config"] == LIGHT and _plain(line)):
        _, found["light_ms"], found["usual_ms"] = lighter
    for name, (file, fits, value) in NAMES.items():
        own = [line for line in tables.lines(file) if fits(line)] if file else []
        if own:
            found[name] = value(own[-1])
    return found


def half_measured() -> str:
    """What 16-bit numbers take on a CPU beside 32-bit ones."""
    found = _beside(lambda line: line["config"] == CONFIG and not _plain(line))
    if found is None:
        return "bfloat16 and float16 were never timed on a CPU"
    half, ms, usual = found
    return f"{half['dtype']} took {ms} for such an image where float32 took {usual}"


def _beside(fits: Callable[[dict[str, Any]], bool]) -> tuple | None:
    """The last line of an architecture that fits, its time, and R-50-FPN's on it.

    One image of full size each, on the same CPU.
    """
    every = [x for x in tables.lines("architectures") if _sized(x) and x["batch"] == 1]
    own = [line for line in every if fits(line)]
    if not own:
        return None
    ms = [
        f"{line['median_ms']:.0f} ms"
        for line in every
        if _usual(line) and tables.device(line) == tables.device(own[-1])
    ]
    return own[-1], f"{own[-1]['median_ms']:.0f} ms", ms[-1] if ms else UNKNOWN


def _on_cpu(line: dict[str, Any]) -> bool:
    return tables.owner(line).get("platform", "cpu") == "cpu"


def _sized(line: dict[str, Any]) -> bool:
    return line.get("size") == SIZE and _on_cpu(line)


def _plain(line: dict[str, Any]) -> bool:
    return _sized(line) and line["dtype"] == "float32"


def _usual(line: dict[str, Any]) -> bool:
    return line.get("config") == CONFIG and _plain(line)


def _trained(line: dict[str, Any]) -> bool:
    return line["mode"] == "train" and _usual(line["ours"])


def _decoded(reduced: bool) -> Callable[[dict[str, Any]], bool]:
    return lambda line: line.get("reduced") is reduced


def _first(mode: str, kind: str) -> tuple:
    fits = lambda line: _usual(line) and mode in line  # noqa: E731
    return "compile", fits, lambda line: f"{line[mode][f'{kind}_first_call_s']:.1f} s"


def _share(line: dict[str, Any], *names: str) -> float:
    times = {stage["stage"]: stage["median_ms"] for stage in line["stages"]}
    return sum(times.get(name, 0) for name in names) / tables.total(line)


def _batched(line: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The points over the batch of a prediction of the usual network, two or more."""
    if line["config"] != CONFIG or line["mode"] != "infer" or not _on_cpu(line):
        return None
    own = [axis["points"] for axis in line["axes"] if axis["axis"] == "batch"]
    return own[0] if own and len(own[0]) > 1 else None


def _batching(line: dict[str, Any]) -> str:
    ends = _batched(line)[0], _batched(line)[-1]
    said = (
        f"{point['median_ms'] / point['units']:.0f} ms at batch {point['units']}"
        for point in ends
    )
    return f"{' and '.join(said)}, of {tables.size(line)}"


# Name in braces: file, which of its lines, text from the last of them.
NAMES: dict[str, tuple] = {
    "gpu_measured": ("", None, None),
    "tpu_measured": ("", None, None),
    "half_measured": ("", None, None),
    "light_ms": ("", None, None),
    "usual_ms": ("", None, None),
    "convolutions": (
        "stages",
        lambda line: line["mode"] == "infer" and _usual(line),
        lambda line: f"{_share(line, 'backbone', 'FPN', 'RPN head'):.0%}",
    ),
    "batching": (
        "growth",
        lambda line: _batched(line) is not None,
        lambda line: _batching(line),
    ),
    "predict_cold": _first("infer", "cold"),
    "predict_cached": _first("infer", "cached"),
    "train_cold": _first("train", "cold"),
    "train_cached": _first("train", "cached"),
    "train_memory": (
        "compare",
        _trained,
        lambda line: f"{line['ours']['peak_rss_mb']:.0f} MiB at batch {line['batch']}",
    ),
    "train_images": (
        "compare",
        _trained,
        lambda line: f"{line['ours']['images_per_s']:.2f}",
    ),
    "decoded_one": (
        "data",
        _decoded(False),
        lambda line: f"{line['one_thread_img_s']:.0f}",
    ),
    "decoded_all": (
        "data",
        _decoded(False),
        lambda line: f"{line['threads_img_s']:.0f}",
    ),
    "decoded_part": (
        "data",
        _decoded(True),
        lambda line: f"{line['threads_img_s']:.0f}",
    ),
    "checkpoint_share": (
        "checkpoint",
        lambda line: line["config"] == CONFIG,
        lambda line: f"{line['share_percent']:.2f} % of {line['every']} steps",
    ),
    "exchanged": (
        "scaling",
        lambda line: line["config"] == CONFIG,
        lambda line: f"{line['scaling'][-1]['collective_mb']:.0f} MB",
    ),
}


def files() -> dict[Path, str]:
    """{file: text} of everything that belongs to the page."""
    return {PAGE: page(), **tables.pictures()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes or checks the page; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args(arguments).check
    old = [p for p, text in files().items() if not p.exists() or p.read_text() != text]
    if not check:
        for path, text in files().items():
            path.write_text(text)
    elif old:
        names = ", ".join(path.name for path in old)
        print(f"{names}: not up to date, run python tools/performance.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
