"""Writes the largest error of each comparison, for the table of results.

`FRCNN_RECORD_PARITY=FILE pytest tests/parity -n 0` writes `{test: {what: error}}`.
"""

import json
import os
from pathlib import Path

from tests.parity import compare


def pytest_sessionfinish(session):
    path = os.environ.get("FRCNN_RECORD_PARITY")
    if path and compare.ERRORS:
        text = json.dumps(compare.ERRORS, indent=1, sort_keys=True)
        Path(path).write_text(text + "\n")
