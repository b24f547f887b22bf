"""A network, rows of input and masks as they are named on a command line."""

from __future__ import annotations

import inspect
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.export import ExportedProgram

from fairdeploy.compaction.groups import Masks
from fairdeploy.compaction.proof import BATCH_SIZES
from fairdeploy.errors import ConfigError
from fairdeploy.graphs import GRAPH, load_graph
from fairdeploy.usercode import call, load_object
from fairdeploy.yamlfile import nearest

ROWS = max(BATCH_SIZES)
_SEED = 0
_T = TypeVar("_T")


@dataclass(frozen=True)
class GivenRows:
    """Rows of input, one tensor [n, ...] for each argument of forward; `real` unless they are random."""

    inputs: tuple[Tensor, ...]
    real: bool


def load_network(name: str, folder: Path, weights: Path | None = None) -> nn.Module:
    """Return a network in evaluation mode.

    Parameters
    ----------
    name : str
        ``package.module:attribute``, a module or a function that returns one (or an exported program); or a folder
        that `save_graph` wrote, for which no code of the user's runs.
    folder : Path
        First on ``sys.path``.
    weights : Path, optional
        Safetensors file with the module's state.

    Raises
    ------
    ConfigError
        If there is no such network, or the weights do not fit.
    IntegrityError
        If the folder's graph cannot be loaded.
    """
    if (Path(name) / GRAPH).is_file():
        network: Any = load_graph(Path(name))
    elif all(name.partition(":")):
        network = load_object(name, folder)
        if not isinstance(network, nn.Module | ExportedProgram):
            network = call(network, {}, name=name)
        if isinstance(network, ExportedProgram):
            network = network.module(check_guards=False)
    else:
        raise ConfigError(f"'{name}' is no network: give package.module:function, or a folder with {GRAPH}")
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{name} gave {type(network).__name__}: return a torch.nn.Module")
    if weights is not None:
        try:
            network.load_state_dict(load_file(weights))
        except Exception as error:  # safetensors and torch raise many kinds for a file that does not fit
            raise ConfigError(f"do not fit {name}: {' '.join(str(error).split())}", file=weights) from None
    for part in network.modules():  # an exported graph refuses eval()
        part.training = False
    return network


def given_rows(network: nn.Module, shapes: tuple[str, ...], file: Path | None) -> GivenRows:
    """Return real rows from a file, else random ones in the shapes given.

    Floating-point rows take the dtype of the network's parameters.

    Parameters
    ----------
    network : Module
    shapes : tuple of str
        Of one row: ``3,32,32``, in the order of forward's arguments, or ``NAME=3,32,32``.
    file : Path, optional
        An npz file with one array [n, ...] for each argument, named like it; a single array may have any name.

    Raises
    ------
    ConfigError
        If neither or both are given, or they do not fit forward's arguments.
    """
    if bool(shapes) == (file is not None):
        raise ConfigError("say what one row of input looks like, --input 3,224,224, or give real rows, --rows FILE.npz")
    if file is not None:
        arrays = read_arrays(file)
        rows = tuple(_as_tensor(name, array, network, file) for name, array in _ordered(network, arrays, str(file)))
        if len({len(row) for row in rows}) > 1:
            raise ConfigError("its arrays have different numbers of rows", file=file)
        return GivenRows(rows, real=True)
    generator = torch.Generator().manual_seed(_SEED)
    drawn = _ordered(network, _parse_shapes(shapes), "--input")
    return GivenRows(
        tuple(torch.randn((ROWS, *shape), generator=generator).to(_dtype(network)) for _, shape in drawn), real=False
    )


def read_masks(file: Path) -> Masks:
    """Return masks by group, true keeps a channel, from an npz file or from JSON (``"0110"`` or ``[0, 1, 1, 0]``).

    Raises
    ------
    ConfigError
        If the file cannot be read, or a mask holds anything but zeros and ones.
    """
    if file.suffix != ".json":
        return {name: _as_mask(name, array, file) for name, array in read_arrays(file).items()}
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read as JSON: {error}", file=file) from None
    if not isinstance(content, dict):
        raise ConfigError('holds no masks by group: write {"conv.weight": "0110"}', file=file)
    return {name: _as_mask(name, _listed(mask), file) for name, mask in content.items()}


def read_arrays(file: Path) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of an npz file by name.

    Raises
    ------
    ConfigError
        If it cannot be read without unpickling.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"is no npz file of plain arrays: {error}", file=file) from None
    if not found:
        raise ConfigError("holds no array", file=file)
    return found


def _listed(mask: object) -> NDArray[np.generic]:
    try:
        return np.array([int(bit) for bit in mask] if isinstance(mask, str) else mask)
    except ValueError:
        return np.empty(0, object)


def _as_mask(name: str, array: NDArray[np.generic], file: Path) -> NDArray[np.bool_]:
    if array.ndim != 1 or array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise ConfigError(f"the mask of '{name}' is no list of zeros and ones", file=file)
    return array.astype(np.bool_)


def _as_tensor(name: str, array: NDArray[np.generic], network: nn.Module, file: Path) -> Tensor:
    if array.ndim < 1 or not len(array) or array.dtype.kind not in "biuf":
        raise ConfigError(f"'{name}' holds no rows of numbers", file=file)
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float64)).to(_dtype(network))
    return torch.from_numpy(array.astype(np.int64 if array.dtype.itemsize > 1 else array.dtype))


def _dtype(network: nn.Module) -> torch.dtype:
    return next((one.dtype for one in network.parameters() if one.is_floating_point()), torch.float32)


def _parse_shapes(texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Read ``NAME=3,32,32``; those without a name are called "#0", "#1" ... by their place."""
    shapes: dict[str, tuple[int, ...]] = {}
    for place, text in enumerate(texts):
        name, named, sizes = text.rpartition("=")
        try:
            shape = tuple(int(size) for size in sizes.split(","))
        except ValueError:
            shape = (0,)
        if min(shape) < 1:
            raise ConfigError(f"--input {text}: give the sizes of one row, as in 3,32,32 or image=3,32,32")
        key = name if named else f"#{place}"
        if key in shapes or (named and not name):
            raise ConfigError(f"--input {text}: name every input once")
        shapes[key] = shape
    return shapes


def _ordered(network: nn.Module, given: Mapping[str, _T], where: str) -> list[tuple[str, _T]]:
    """Return what is given in the order of forward's arguments; nameless things are in that order already."""
    parameters = inspect.signature(network.forward).parameters.values()
    positional = {one.name: one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)}
    nameless = all(name.startswith("#") for name in given)
    if nameless or (len(given) == 1 and not positional.keys() & given.keys() and where != "--input"):
        given = dict(zip([*positional, *(f"#{place}" for place in range(len(given)))], given.values(), strict=False))
        if any(one.kind == one.VAR_POSITIONAL for one in parameters):
            return list(given.items())
    for name in given.keys() - positional.keys():
        if name.startswith("#"):
            raise ConfigError(f"{where}: forward takes {len(positional)} inputs, {len(given)} are given")
        raise ConfigError(f"{where}: forward has no argument '{name}'{nearest(name, positional)}")
    needed = [name for name, one in positional.items() if one.default is one.empty or name in given]
    if list(positional)[: len(needed)] != needed or given.keys() != set(needed):
        missing = [name for name in list(positional)[: len(needed)] if name not in given]
        raise ConfigError(f"{where}: forward needs {' and '.join(map(repr, missing))} as well")
    return [(name, given[name]) for name in needed]
