"""Weights of other detectors to and from our flat `{path: array}`.

`rules` is the mechanism, `layouts` what happens to one array, one module per lineage
holds its table of names, `files` reads and writes, `merge` puts weights into a model,
`surgery` fits a class head to other classes, `health` looks for what is odd. `peers`
has a row for each peer; its two functions and `load` are what a notebook needs.
`locate` finds the file of a name: of `published` weights or of a repository (`hub`),
which `download` fetches. `torch_files` reads what torch wrote: `pickles` the pickles in
it, `pickled_arrays` their tensors, `pickled_weights` finds which of them are the
weights. Everything here speaks parameter paths and numpy arrays; nothing needs a model,
jax or torch.
"""

from frcnn_jax.convert.files import load
from frcnn_jax.convert.peers import from_state_dict, to_state_dict

__all__ = ["from_state_dict", "load", "to_state_dict"]
