"""Weights of other detectors to and from our flat `{path: array}`.

`rules` is the mechanism, `layouts` what happens to one array, one module per lineage
holds its table of names, `files` reads and writes, `merge` puts weights into a model.
`torch_files` reads what torch wrote: `pickles` the pickles in it, `pickled_arrays`
their tensors, `pickled_weights` finds which of them are the weights.
Everything here speaks parameter paths and numpy arrays; nothing needs a
model, jax or torch.
"""
