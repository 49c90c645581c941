"""What the scripts share on the command line: the config flag and plain errors."""

import sys
import traceback
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import config_flags

from frcnn_jax import config

# Faults of input or settings: one clear sentence helps more than a traceback.
EXPECTED = (ValueError, FileNotFoundError, NotADirectoryError, ArithmeticError)


def define_config(required: bool) -> None:
    """Adds `--config=FILE.py` and `--config.any.field=value`."""
    config_flags.DEFINE_config_file(
        "config", None, "Configuration file, e.g. configs/r50_fpn_1x.py."
    )
    if required:
        flags.mark_flag_as_required("config")


def checked(run: config.Run) -> config.Run:
    """The run, after `config.validate`."""
    config.validate(run)
    return run


def run(main: Callable[[list[str]], None]) -> None:
    """Runs a script; expected faults end it with their message and exit code 1.

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
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    app.run(guarded)


def refuse_extra(argv: list[str]) -> None:
    """Stops at words that no flag explains, such as a forgotten `--`."""
    if len(argv) > 1:
        raise ValueError(f"unexpected {' '.join(argv[1:])!r}: options begin with --")
