"""Ours beside a peer on this machine: alternating processes, medians, their ratio.

    python benchmarks/compare.py --mode=infer --size=800x1216 --batch=1 --rounds=3 \\
        --peer-python=PYTHON --peer-script=SCRIPT.py

Each round runs our script and then the peer's, never both at once, so that a machine
that slows down slows both. The peer's script has to take `--mode infer|train --size HxW
--batch N --device cpu|cuda --dtype fp32|bf16 --warmup N --repeats N` and to print one
line of JSON with `median_ms` last. The ratio is ours / peer, the median of those of the
rounds: below 1, ours is quicker.

Ours starts from uint8 images in host memory and ends there; what the peer's script
times is its own affair (see its text) and should be quoted beside the ratio.
"""

import argparse
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

from benchmarks import record  # noqa: E402

HERE = Path(__file__).resolve().parent
SCRIPTS = {"infer": HERE / "inference.py", "train": HERE / "train_step.py"}
PEER_DTYPES = {"float32": "fp32", "bfloat16": "bf16"}
PEER_DEVICES = {"cpu": "cpu", "gpu": "cuda"}  # JAX's platform names


def main() -> None:
    asked = arguments()
    rounds = []
    for number in range(1, asked.rounds + 1):
        ours = record.from_process(our_command(asked))
        peer = record.from_process(peer_command(asked, ours["device"]["platform"]))
        rounds.append((ours, peer))
        print(
            f"round {number}/{asked.rounds}: ours {ours['median_ms']:.1f} ms,"
            f" peer {peer['median_ms']:.1f} ms",
            file=sys.stderr,
            flush=True,
        )
    same = ("mode", "size", "batch", "dtype", "rounds", "repeats", "our_args")
    settings = {name: getattr(asked, name) for name in (*same, "peer_args")}
    record.emit("compare", settings | summary(rounds), asked.save)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", required=True, help="the peer's interpreter")
    parser.add_argument("--peer-script", required=True, type=Path)
    parser.add_argument("--mode", choices=tuple(SCRIPTS), required=True)
    parser.add_argument("--size", default="800x1216", metavar="HxW")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=tuple(PEER_DTYPES), default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="timed calls a round")
    parser.add_argument("--our-args", default="", help="more words for our script")
    parser.add_argument("--peer-args", default="", help="more words for the peer's")
    record.add_save(parser)
    asked = parser.parse_args()
    if asked.rounds < 1:
        parser.error(f"--rounds={asked.rounds}: one round or more")
    if asked.repeats % 2 == 0:  # one of two in the middle, or their mean: peers differ
        parser.error(f"--repeats={asked.repeats}: an odd number, which has a middle")
    if not asked.peer_script.is_file():
        parser.error(f"--peer-script={asked.peer_script} does not exist")
    return asked


def our_command(asked: argparse.Namespace) -> list[str | Path]:
    """The command line of our side of a round."""
    dtype = f"--dtype={asked.dtype}"
    own = [dtype, *_common(asked), *shlex.split(asked.our_args)]
    return [sys.executable, SCRIPTS[asked.mode], *own]


def peer_command(asked: argparse.Namespace, platform: str) -> list[str | Path]:
    """The command line of the peer's side, on the device that ours ran on."""
    words = [f"--mode={asked.mode}", f"--device={PEER_DEVICES[platform]}"]
    words += [f"--dtype={PEER_DTYPES[asked.dtype]}", *_common(asked)]
    words += shlex.split(asked.peer_args)
    return [asked.peer_python, asked.peer_script, *words]


def _common(asked: argparse.Namespace) -> list[str]:
    names = ("size", "batch", "warmup", "repeats")
    return [f"--{name}={getattr(asked, name)}" for name in names]


def summary(rounds: list[tuple[record.Line, record.Line]]) -> dict[str, Any]:
    """Medians over the rounds, their ratio, and the last round's lines in full."""
    ours, peer = (
        [line["median_ms"] for line in side] for side in zip(*rounds, strict=True)
    )
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    return {
        "ours_ms": ours,
        "peer_ms": peer,
        "ours_median_ms": round(statistics.median(ours), 3),
        "peer_median_ms": round(statistics.median(peer), 3),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "ours": rounds[-1][0],
        "peer": rounds[-1][1],
    }


if __name__ == "__main__":
    main()
