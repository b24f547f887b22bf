"""Graphs of tensor operations on disk: our own JSON and safetensors, loaded without unpickling or the user's code.

::

    file      save_graph, load_graph: the records, the digests, what is refused
    calls     functions and arguments as JSON, from an allowlist by rule
    tensors   parameters, buffers and constants in safetensors
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    from fairdeploy.errors import MissingExtra

    raise MissingExtra("reading a graph", "torch") from error

from fairdeploy.graphs.file import GRAPH, load_graph, save_graph

__all__ = ["GRAPH", "load_graph", "save_graph"]
