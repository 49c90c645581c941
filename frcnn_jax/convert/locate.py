"""What may stand for weights: a file, a published name, a name of the hub."""

from pathlib import Path

from frcnn_jax.convert import download, hub, published


def file(path: str | Path) -> Path:
    """The file on this disk, fetched if need be; any other path as it is.

    Errors: ValueError for an address or a name that is not published; DownloadError.
    """
    text = str(path)
    if "://" in text:
        raise ValueError(
            f"{text}: weights are a file, a published name such as mmdet:r50_fpn_1x or"
            " a repository as in hf:OWNER/NAME; fetch other addresses yourself"
        )
    if Path(path).exists():
        return Path(path)
    if hub.is_name(text):
        return download.fetch(hub.find(text))
    if published.is_name(text):
        return download.fetch(published.find(text))
    return Path(path)


def is_name(text: str | Path) -> bool:
    """Whether this is a name and not a path; an existing file wins."""
    return not Path(text).exists() and (hub.is_name(text) or published.is_name(text))
