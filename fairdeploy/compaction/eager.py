"""Put a compacted graph's tensors back into the user's own module."""

from __future__ import annotations

from torch import Tensor, nn

from fairdeploy.compaction.bake import private_copy
from fairdeploy.compaction.stored import put
from fairdeploy.errors import CompactionError


def put_back(model: nn.Module, tensors: dict[str, Tensor], groups: dict[str, int]) -> nn.Module:
    """Return a copy of a module with smaller tensors and the sizes that its layers declare.

    Parameters
    ----------
    model : Module
        Left as it is.
    tensors : dict of str to Tensor
        Parameters and buffers by name; every name that shares a tensor gets the new one.
    groups : dict of str to int
        Numbers of groups that convolutions are left with, by the names of their weights.

    Raises
    ------
    CompactionError
        If the module has no place for one of them.
    """
    smaller = private_copy(model).eval()
    aliases = _aliases(smaller)
    for name, tensor in tensors.items():
        try:
            if name in aliases:
                put(smaller, name, tensor)
                for alias in aliases[name] - {name}:
                    _share(smaller, name, alias)
            else:
                _add_bias(smaller, name, tensor)
        except AttributeError as error:
            raise CompactionError(f"the module has no place for '{name}'") from error
    for name, count in groups.items():
        convolution = smaller.get_submodule(name.rpartition(".")[0])
        if isinstance(convolution, nn.modules.conv._ConvNd):
            convolution.groups = count
    for part in smaller.modules():
        _declare_sizes(part)
    return smaller


def _aliases(model: nn.Module) -> dict[str, set[str]]:
    """Return for each tensor's name all names of the same tensor."""
    by_tensor: dict[int, set[str]] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        by_tensor.setdefault(id(tensor), set()).add(name)
    return {name: by_tensor[id(tensor)] for name, tensor in named}


def _share(model: nn.Module, name: str, alias: str) -> None:
    """Let one name stand for the tensor of another."""
    (owner, _, leaf), (other, _, same) = name.rpartition("."), alias.rpartition(".")
    source, target = model.get_submodule(owner), model.get_submodule(other)
    if leaf in source._parameters:
        target.register_parameter(same, source._parameters[leaf])
    else:
        target._buffers[same] = source._buffers[leaf]


def _add_bias(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Give a layer that was made without a bias one."""
    owner_name, _, leaf = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    if not isinstance(owner, nn.Linear | nn.modules.conv._ConvNd) or leaf != "bias" or owner.bias is not None:
        raise CompactionError(f"the module has no place for '{name}'")
    owner.bias = nn.Parameter(tensor)


def _declare_sizes(part: nn.Module) -> None:
    """Set the sizes that torch's own layers remember from their tensors."""
    if isinstance(part, nn.modules.conv._ConvNd):
        own, other = part.weight.shape[0], part.weight.shape[1] * part.groups
        part.in_channels, part.out_channels = (own, other) if part.transposed else (other, own)
    elif isinstance(part, nn.Linear):
        part.out_features, part.in_features = part.weight.shape
    elif isinstance(part, nn.modules.batchnorm._NormBase):
        sized = part.running_mean if part.weight is None else part.weight
        if isinstance(sized, Tensor):
            part.num_features = sized.shape[0]
    elif isinstance(part, nn.GroupNorm) and isinstance(part.weight, Tensor):
        part.num_groups = part.num_groups * part.weight.shape[0] // part.num_channels
        part.num_channels = part.weight.shape[0]
    elif isinstance(part, nn.RNNBase) and not part.proj_size:
        part.input_size, part.hidden_size = (weight.shape[1] for weight in part.all_weights[0][:2])
    elif isinstance(part, nn.PReLU):
        part.num_parameters = part.weight.shape[0]
