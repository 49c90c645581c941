"""Run a notebook and keep what it shows: python tools/notebook.py NOTEBOOK.

Cells run from the root of the project, in a folder of their own for what they write
(`runs/notebook`). Times of execution and the machine's Python are left out of the file.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def plain(notebook) -> None:
    """Takes out of a notebook what changes with every run or machine."""
    notebook.metadata = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)


def main(arguments: Sequence[str] | None = None) -> int:
    import nbformat
    from nbclient import NotebookClient

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    path = parser.parse_args(arguments).notebook
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    where = {"metadata": {"path": str(ROOT)}}
    NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources=where
    ).execute()
    plain(notebook)
    nbformat.write(notebook, path)
    print(f"{path}: {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
