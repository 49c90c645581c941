"""`frcnn VERB ...`, or `python -m frcnn_jax VERB ...`: the scripts, from any folder."""

import runpy
import sys
from difflib import get_close_matches
from pathlib import Path

from frcnn_jax import home

SCRIPTS = {
    "train": "train.py",
    "eval": "eval.py",
    "predict": "predict.py",
    "convert": "convert.py",
    "export": "tools/export.py",
    "serve": "tools/serve.py",
    "find_lr": "tools/find_lr.py",
    "make_shapes": "tools/make_shapes.py",
}
USAGE = f"""usage: frcnn VERB ... where VERB is one of
  {", ".join(SCRIPTS)}: as the scripts of that name, see VERB --help
  data: check or show a data set, as python -m frcnn_jax.data
  doctor: versions, devices and caches, and what is wrong with them
A --config that is not there is looked for in {{}}"""


def main() -> None:
    """Run a verb with the words after it."""
    words = sys.argv[1:] or ["--help"]
    place = home.folder()
    verb, rest = words[0], [_found(word, place) for word in words[1:]]
    sys.path.insert(0, str(place))  # for `from configs import ...`
    if verb in SCRIPTS:
        sys.argv = [str(place / SCRIPTS[verb]), *rest]
        runpy.run_path(sys.argv[0], run_name="__main__")
    elif verb == "data":
        sys.argv = ["frcnn data", *rest]
        runpy.run_module("frcnn_jax.data", run_name="__main__")
    elif verb == "doctor" and not rest:
        _doctor()
    elif verb in ("-h", "--help", "help"):
        print(USAGE.format(place / "configs"))
    else:
        near = get_close_matches(verb, [*SCRIPTS, "data", "doctor"], 1, cutoff=0.0)
        told = f"error: no verb {' '.join(words)!r}; did you mean {near[0]!r}?"
        print(told, file=sys.stderr)
        print(USAGE.format(place / "configs"), file=sys.stderr)
        raise SystemExit(2)


def _found(word: str, place: Path) -> str:
    """A --config=FILE, in the folder of the scripts where only that has it."""
    name, equals, file = word.partition("=")
    known = name.lstrip("-") == "config" and equals and not Path(file).exists()
    if known and (place / file).exists():
        return f"{name}={place / file}"
    return word


def _doctor() -> None:
    from frcnn_jax import machine  # only here: it imports what the others need not

    text, faults = machine.report()
    print(text)
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
