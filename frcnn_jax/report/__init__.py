"""One self-contained page of a run: figures, curves, errors, pictures, settings."""
