"""Weights with their model card to a repository of the Hugging Face hub."""

import tempfile
from pathlib import Path

from frcnn_jax.convert import hub
from frcnn_jax.porting import card, source
from frcnn_jax.training.devices import first_line


def check(name: str) -> hub.Place:
    """Where a name lets weights go, before any work.

    Errors: ValueError for no name of a repository, or a missing package.
    """
    place = hub.parse(name)
    if place != hub.Place(place.repository, hub.FILE, hub.REVISION):
        raise ValueError(
            f"{name}: weights go to {hub.FILE} of the branch {hub.REVISION}: name the"
            f" repository alone, hf:{place.repository}"
        )
    _package()
    return place


def push(
    found: source.Source,
    name: str,
    *,
    folder: str | None = None,
    private: bool = False,
    data_license: str | None = None,
) -> str:
    """Writes weights and README.md there, in one commit; gives its address.

    A repository that does not exist is made, `private` or not. `folder` is that of the
    run that the weights come from, for its scores. Errors: as `check`; ValueError for
    what the hub refuses.
    """
    repository, package = check(name).repository, _package()
    with tempfile.TemporaryDirectory(prefix="frcnn_push_") as here:
        source.write(found, Path(here, hub.FILE))
        text = page(found, repository, folder, data_license)
        Path(here, "README.md").write_text(text, encoding="utf-8")
        api = package.HfApi(endpoint=hub.endpoint(), token=hub.token())
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            told = api.upload_folder(
                repo_id=repository,
                folder_path=here,
                commit_message=f"Weights of {Path(found.name).name}",
            )
        except Exception as error:  # of no common class, and all end the same way
            raise ValueError(
                f"{name}: the hub took nothing ({first_line(error)}): set HF_TOKEN to a"
                " token that may write there, or write a file and upload it yourself"
            ) from error
    return told.commit_url


def page(
    found: source.Source, repository: str, folder: str | None, data_license: str | None
) -> str:
    """The model card as the hub wants it: tags first, then how to load."""
    facts = card.facts(found.run, found.labels, found.name, folder, data_license)
    return f"""---
library_name: frcnn_jax
pipeline_tag: object-detection
tags: [object-detection, faster-rcnn, jax]
---

# {card.title(found.run.model)}

{facts}

With `frcnn_jax`, which is under Apache-2.0:

    from frcnn_jax import Predictor

    found = Predictor("hf:{repository}")("photo.jpg")
    found.xyxy, found.scores, found.names

or on the command line `frcnn predict --weights=hf:{repository} photo.jpg --out=found`;
`frcnn train --config=FILE --config.init.load=hf:{repository}` starts a training from
it. `{hub.FILE}` carries its configuration and the names of its classes.
"""


def _package():
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            f"weights go to the hub by a package that cannot be imported ({error}):"
            " pip install huggingface_hub"
        ) from error
    return huggingface_hub
