"""What the scripts share on the command line: the config flag and plain errors."""

import dataclasses
import json
import re
import sys
import traceback
import typing
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from frcnn_jax import config

# Faults of input or settings: one clear sentence helps more than a traceback.
EXPECTED = (ValueError, OSError, ArithmeticError, flags.Error)
FIELD = re.compile(r"--?(?:no)?config\.([^=]*)")


def define_config(required: bool) -> None:
    """Adds `--config=FILE.py` and `--config.any.field=value`."""
    config_flags.DEFINE_config_file(
        "config", None, "Configuration file, e.g. configs/r50_fpn_1x.py."
    )
    if required:
        flags.mark_flag_as_required("config")


def define_require() -> None:
    """Adds `--require=tpu|gpu|cpu`, see `training/devices.py`."""
    kinds = ["tpu", "gpu", "cpu"]
    flags.DEFINE_enum("require", None, kinds, "Stop unless JAX runs on this.")


def define_processes() -> None:
    """Adds the flags by which one of several processes says who it is."""
    flags.DEFINE_bool("distributed", False, "Join the processes of a pod or SLURM job.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0; or found.")
    flags.DEFINE_integer("num_processes", None, "How many processes, with it.")
    flags.DEFINE_integer("process_id", None, "Which one this is, from 0.")
    flags.DEFINE_integer("lost_after", 100, "Seconds of silence that make it lost.")


def processes() -> dict[str, Any] | None:
    """The arguments of `training/distributed.py`'s join; None for a process alone."""
    given = flags.FLAGS
    who = (given.coordinator, given.num_processes, given.process_id)
    if not given.distributed and who == (None, None, None):
        return None
    names = ("coordinator", "count", "index")
    return dict(zip(names, who, strict=True)) | {"lost_after": given.lost_after}


def checked(run: config.Run) -> config.Run:
    """The run, after `config.validate`.

    Errors: ValueError naming the field, also for a value of another type.
    """
    for name, value, kind in _typed(run):
        if not _is(value, kind):
            shown = getattr(kind, "__name__", str(kind)) if kind in _PLAIN else kind
            raise ValueError(f"config field {name} is {value!r}: it must be {shown}")
    config.validate(run)
    return run


_PLAIN = (bool, int, float, str)


def _typed(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every field as (name, value, declared type)."""
    for name, kind in typing.get_type_hints(type(section)).items():
        value = getattr(section, name)
        if kind in _PLAIN or typing.get_origin(kind) is tuple:
            yield prefix + name, value, kind
        elif dataclasses.is_dataclass(value):
            yield from _typed(value, f"{prefix}{name}.")


def _is(value: Any, kind: Any) -> bool:
    """Whether a value has a declared type; whole numbers are floats too."""
    if kind in _PLAIN:
        return type(value) in {float: (int, float)}.get(kind, (kind,))
    inner = typing.get_args(kind)
    if not isinstance(value, tuple):
        return False
    if inner[-1] is not Ellipsis and len(value) != len(inner):
        return False
    return all(_is(v, inner[0]) for v in value)  # no field mixes types in one tuple


def run(main: Callable[[list[str]], None]) -> None:
    """Runs a script; expected faults end it with their message and exit code.

    The code is 1, unless the error has an `exit_code` of its own.

    `--debug_errors` shows the traceback as well.
    """
    flags.DEFINE_bool("debug_errors", False, "Show tracebacks of input errors.")

    def guarded(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # libraries report every file they write
        try:
            main(argv)
        except EXPECTED as error:
            if flags.FLAGS.debug_errors:
                traceback.print_exc()
            prefix = getattr(error, "prefix", "error: ")
            _stop(str(error), getattr(error, "exit_code", 1), prefix)

    app.run(guarded, flags_parser=parse)


_FIELDS: list[str] = []


def parse(argv: Sequence[str]) -> list[str]:
    """Sets the flags and gives the words that are none.

    Ends the script with one line for a flag, config field, type or configuration file
    that does not exist; the nearest name is given. Fields without a --config file are
    kept for `with_fields`.
    """
    try:
        flagged = [word for word in _before_dashes(argv) if word.startswith("-")]
        file = _config_file(argv)
        if file is not None:
            _check_fields(flagged, run_of(file))
            return flags.FLAGS(argv)
        _FIELDS[:] = [word for word in flagged if FIELD.match(word)]
        return flags.FLAGS([word for word in argv if word not in _FIELDS])
    except EXPECTED as error:
        _stop(" ".join(str(error).split()))
        raise


def with_fields(run: config.Run) -> config.Run:
    """A run, of a folder or a name, with the --config.* fields of this command line.

    For commands without a --config file. Errors: ValueError for a field that this run
    does not have, flags.Error for a value that does not parse as its field's type.
    """
    _check_fields(_FIELDS, run)
    values = flags.FlagValues()
    argv = ["", *_FIELDS]
    made = config.from_dict(json.loads(config.to_json(run)))
    config_flags.DEFINE_config_dataclass(
        "config", made, flag_values=values, sys_argv=argv
    )
    values(argv)
    return values.config


def _stop(message: str, code: int = 1, prefix: str = "error: ") -> None:
    print(f"{prefix}{message}", file=sys.stderr)
    sys.exit(code)


def _before_dashes(argv: Sequence[str]) -> list[str]:
    words = list(argv[1:])
    return words[: words.index("--")] if "--" in words else words


def _config_file(argv: Sequence[str]) -> str | None:
    """The value of --config, written with = or as the next word."""
    words = _before_dashes(argv)
    for position, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in ("-config", "--config"):
            return value if equals else "".join(words[position + 1 : position + 2])
    return None


def _check_file(file: str) -> None:
    if Path(file).is_file():
        return
    there = [str(path) for path in sorted(Path(file).parent.glob("*.py"))]
    near = get_close_matches(file, there, 1) or [", ".join(there)]
    hint = f"; did you mean {near[0]}?" if near[0] else ""
    raise FileNotFoundError(f"--config: {file} does not exist{hint}")


def run_of(file: str) -> config.Run:
    """What a configuration file gives, before any field of the command line.

    Errors: FileNotFoundError with the nearest name, ValueError for a field that the
    file sets and that does not exist.
    """
    _check_file(file)
    values = flags.FlagValues()
    argv = ["", f"--config={file}"]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values(argv)
    try:
        config.check_names(values.config)
    except ValueError as error:
        raise ValueError(f"--config={file}: {error}") from error
    return values.config


def file_given() -> tuple[str, config.Run] | None:
    """Name and run of the --config file, without the fields of the command line."""
    if flags.FLAGS.config is None:
        return None
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    return Path(file).name, run_of(file)


def _check_fields(words: Sequence[str], run: config.Run) -> None:
    """Stops at `--config.*` words that name no field of this run."""
    known = [name for name, _ in config.flatten(run)]
    for word in words:
        field = FIELD.match(word)
        if field and field[1] not in known:
            raise ValueError(f"--config.{field[1]}: {_why_not(field[1], run, known)}")


def _why_not(name: str, run: config.Run, known: Sequence[str]) -> str:
    """Why a run lacks a field: its section is another kind, or none, or a typo."""
    if name in dict(config.flatten(config.Run())):
        section, path, last = run, *name.rpartition(".")[::2]
        for part in path.split("."):
            section = getattr(section, part, None)
        if section is None:
            return f"{path} is None here, which has no fields"
        there = ", ".join(entry.name for entry in dataclasses.fields(section))
        kind = type(section).__name__
        return f"{path} is a {kind} here, without {last!r}; it has {there}"
    return f"there is no such field{_nearest(name, known)}"


def _nearest(name: str, known: Sequence[str]) -> str:
    """A hint at the nearest field, as it is written on the command line."""
    near = config.nearest(name, known)
    return f"; did you mean --config.{near}?" if near else ""


def refuse_extra(argv: list[str]) -> None:
    """Stops at words that no flag explains, such as a forgotten `--`."""
    if len(argv) > 1:
        raise ValueError(f"unexpected {' '.join(argv[1:])!r}: options begin with --")
