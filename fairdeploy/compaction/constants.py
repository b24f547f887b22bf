"""Tensors that a network computes from its parameters alone: standardised weights, position tables, masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from fairdeploy.compaction import ops
from fairdeploy.compaction.stored import free_name, stored

_SIMPLE = ops.MOVE | ops.SAME | ops.INDEX


@dataclass(frozen=True)
class Evaluated:
    """What was computed from parameters alone and stands in the graph as a stored tensor.

    Attributes
    ----------
    dtypes : dict of str to dtype
        What they are where the network is not in float64.
    names : dict of str to (str or None)
        The stored tensors, each with the parameter of the same shape that it was computed from.
    following : set of str
        Those that change with a parameter; the others are constants.
    """

    names: dict[str, str | None]
    dtypes: dict[str, torch.dtype]
    following: set[str]
    _program: fx.GraphModule
    _into: fx.GraphModule

    def refresh(self) -> None:
        """Compute them again from the parameters as they are now."""
        if not self.names:
            return
        with torch.no_grad():
            for name, value in zip(self.names, self._program(), strict=True):
                stored(self._into, name).copy_(value)

    def follows(self, name: str, dim: int) -> bool:
        """Return whether zero slices of the parameter along a dimension are zero slices here, and change no others."""
        raw = self.names[name]
        assert raw is not None
        parameter, tensor = stored(self._program, raw), stored(self._into, name)
        half = torch.arange(parameter.shape[dim] // 2)
        kept, before = parameter.detach().clone(), tensor.detach().clone()
        with torch.no_grad():
            parameter.index_fill_(dim, half, 0)
            after = dict(zip(self.names, self._program(), strict=True))[name].clone()
            parameter.copy_(kept)
        return torch.equal(after, before.index_fill_(dim, half, 0))


def evaluate_constants(graph_module: fx.GraphModule) -> Evaluated:
    """Replace what is computed from parameters alone by its value, in place.

    Mere views of one parameter are left: surgery looks through them.
    """
    graph = graph_module.graph
    constant: set[fx.Node] = set()
    simple: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr" or (node.op == "call_function" and constant.issuperset(node.all_input_nodes)):
            constant.add(node)
            picks = [source for source in node.all_input_nodes if source in simple]
            if node.op == "get_attr" or (
                node.target in _SIMPLE and picks == node.all_input_nodes[: len(picks)] and picks
            ):
                simple.add(node)
    found = [
        node for node in graph.nodes if node in constant and node not in simple and not constant.issuperset(node.users)
    ]
    program = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node in constant:
            copies[node] = program.node_copy(node, lambda old: copies[old])
    program.output(tuple(copies[node] for node in found))
    program.eliminate_dead_code()
    evaluator = fx.GraphModule(graph_module, program)
    with torch.no_grad():
        values = evaluator() if found else ()
    names: dict[str, str | None] = {}
    following: set[str] = set()
    dtypes: dict[str, torch.dtype] = {}
    for node, value in zip(found, values, strict=True):
        if not isinstance(value, Tensor):
            continue
        raw = _same_shape(node, value, constant, graph_module)
        name = free_name(graph_module, (raw or str(node.name)) + "_evaluated")
        _set(graph_module, name, value.detach().clone(), trainable=raw is not None and value.is_floating_point())
        with graph.inserting_before(node):
            new = graph.get_attr(name)
        new.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(new)
        names[name], dtypes[name] = raw, node.meta["val"].dtype
        if _from_parameters(node, graph_module):
            following.add(name)
    graph.eliminate_dead_code()
    graph_module.recompile()
    return Evaluated(names, dtypes, following, evaluator, graph_module)


def _from_parameters(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    """Return whether a parameter is among a node's ancestors."""
    queue, seen = [node], set[fx.Node]()
    while queue:
        ancestor = queue.pop()
        if ancestor.op == "get_attr" and isinstance(stored(graph_module, str(ancestor.target)), nn.Parameter):
            return True
        queue.extend(source for source in ancestor.all_input_nodes if source not in seen)
        seen.update(ancestor.all_input_nodes)
    return False


def _same_shape(node: fx.Node, value: Tensor, constant: set[fx.Node], graph_module: fx.GraphModule) -> str | None:
    """Return the first parameter among a node's ancestors that has its value's shape."""
    queue, seen = [node], set()
    while queue:
        ancestor = queue.pop(0)
        if ancestor in seen:
            continue
        seen.add(ancestor)
        if ancestor.op == "get_attr":
            tensor = stored(graph_module, str(ancestor.target))
            if isinstance(tensor, nn.Parameter) and tensor.shape == value.shape:
                return str(ancestor.target)
        queue.extend(ancestor.all_input_nodes)
    return None


def _set(module: nn.Module, target: str, value: Tensor, *, trainable: bool) -> None:
    owner_name, _, leaf = target.rpartition(".")
    owner = module.get_submodule(owner_name)
    if trainable:
        owner.register_parameter(leaf, nn.Parameter(value))
    else:
        owner.register_buffer(leaf, value)
