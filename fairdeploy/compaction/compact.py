"""`compact`: the same outputs from a network without the channels that carry nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from fairdeploy.bundle import CompactionRecord, LayerWidths
from fairdeploy.compaction.bake import baked, private_copy
from fairdeploy.compaction.eager import put_back
from fairdeploy.compaction.graph_labels import LabelledGraph, label_graph
from fairdeploy.compaction.groups import Masks, apply_masks, channels_by_group, groups_of
from fairdeploy.compaction.macs import count_bytes, count_macs, count_parameters
from fairdeploy.compaction.plan import Plan, plan
from fairdeploy.compaction.precision import double, dtypes_of, restore
from fairdeploy.compaction.proof import Expected, Proof, check_inputs_for
from fairdeploy.compaction.stored import find, stored
from fairdeploy.compaction.surgery import Surgery, carry_out, prepare
from fairdeploy.compaction.trace import BATCH, exported, rows_of, trace
from fairdeploy.errors import CompactionError, FairdeployError

Groups = Mapping[str, tuple[list[int], str | None]]


@dataclass(frozen=True)
class CompactModel:
    """A network without the channels that carry nothing, and the proof that its outputs stayed.

    Attributes
    ----------
    module : Module
        Called like the model, in evaluation mode: the user's own class with smaller tensors where that runs and
        is equal, else the graph.
    graph_module : GraphModule
        The compacted graph (evaluation only).
    not_own_class : str, optional
        Why `module` is the graph (`trainable` says how to train it); None where it is the user's class.
    macs_before, macs_after, parameters_before, parameters_after, bytes_before, bytes_after : int
        MACs are for one row of input; bytes are those of parameters and buffers.
    removed : dict of str to (int, int)
        Channels of each group before and after.
    kept_because : dict of str to str
        Groups with channels that carry no information and are kept all the same, with the reason.
    whole : dict of str to str
        Groups that stay whole whatever the masks say, with the reason.
    unknown_ops : tuple of str
        Operations that no rule follows: what they touch stayed whole.
    proof : Proof
    example_inputs : tuple of Tensor
    masked : Module, optional
        The network before removal, where `module` is the graph: `trainable` starts from it.
    """

    module: nn.Module
    graph_module: fx.GraphModule
    not_own_class: str | None
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    removed: Mapping[str, tuple[int, int]]
    kept_because: Mapping[str, str]
    whole: Mapping[str, str]
    unknown_ops: tuple[str, ...]
    proof: Proof
    example_inputs: tuple[Tensor, ...] = field(repr=False)
    masked: nn.Module | None = field(repr=False)
    wide_layer_norm: bool = field(repr=False)

    def __call__(self, *inputs: Tensor) -> Any:
        """Call `module`."""
        return self.module(*inputs)

    def trainable(self) -> nn.Module:
        """Return the network to fine-tune: `module`, or a graph of its own with batch statistics and dropout.

        The same object at every call, in evaluation mode at first.

        Raises
        ------
        CompactionError
            If there is only the graph, and it cannot be trained (`training_graph` says when).
        """
        from fairdeploy.compaction.training import is_trainable

        if not is_trainable(self.module if self.masked is None else self.masked):
            raise CompactionError(
                "a network given as an exported graph has no training mode; give compact the module it came from"
            )
        return self.module if self.masked is None else self._training_graph

    @cached_property
    def _training_graph(self) -> nn.Module:
        from fairdeploy.compaction.training import training_graph

        assert self.masked is not None
        graph, dtypes = training_graph(
            self.masked,
            self.example_inputs,
            check_inputs_for(self.example_inputs, None),
            wide_layer_norm=self.wide_layer_norm,
        )
        restore(graph, dtypes_of(self.masked, dtypes))
        return graph

    def save(self, directory: str | Path) -> None:
        """Write the network as it is now, fine-tuned or not, for `load_graph`; and `compaction.json` beside it.

        What it computes in evaluation mode is written as a graph; the record is that of the compaction.

        Raises
        ------
        CompactionError
            If it cannot be exported or written as a graph; nothing is written then.
        """
        from fairdeploy.graphs import save_graph

        directory = Path(directory)
        tuned = self.module if self.masked is None else vars(self).get("_training_graph")
        save_graph(self.graph_module if tuned is None else _evaluation_graph(tuned, self.example_inputs), directory)
        self.record().save(directory / "compaction.json")

    def counted_from(self, first: CompactModel) -> CompactModel:
        """Return the same network with its costs and widths counted from the network that `first` was made from.

        For one that was compacted again after training. The proof stays that of the last removal. To be called before
        it is trained.
        """
        widths = dict(first.removed)
        for name, (before, after) in self.removed.items():
            widths[name] = widths.get(name, (before, after))[0], after
        return replace(
            self,
            macs_before=first.macs_before,
            parameters_before=first.parameters_before,
            bytes_before=first.bytes_before,
            removed=widths,
        )

    def record(self) -> CompactionRecord:
        """Return what goes to disk."""
        return CompactionRecord(
            macs_before=self.macs_before,
            macs_after=self.macs_after,
            parameters_before=self.parameters_before,
            parameters_after=self.parameters_after,
            bytes_before=self.bytes_before,
            bytes_after=self.bytes_after,
            max_difference=self.proof.max_difference,
            output_sensitivity=self.proof.sensitivity,
            batch_sizes=self.proof.batch_sizes,
            layers=tuple(LayerWidths(group=n, before=b, after=a) for n, (b, a) in self.removed.items()),
            kept_because=dict(self.kept_because),
            whole=dict(self.whole),
            unknown_ops=self.unknown_ops,
            not_own_class=self.not_own_class,
        )


def compact(
    model: nn.Module | ExportedProgram,
    example_inputs: tuple[Tensor, ...],
    masks: Masks | None = None,
    *,
    check_inputs: tuple[Tensor, ...] | None = None,
    wide_layer_norm: bool = False,
) -> CompactModel:
    """Remove every channel that carries nothing, and prove that the outputs stayed.

    What can go is read from plain zeros in the parameters, so masks made by any tool work. Constants that
    removed channels held go into the bias of the layer that read them, where that is exact.

    Parameters
    ----------
    model : Module or ExportedProgram
        Left as it is.
    example_inputs : tuple of Tensor
        One for each argument of ``forward``, with the batch in dimension 0.
    masks : mapping of str to array of bool [size], optional
        Applied first (`apply_masks`); a name for each group of `channel_groups`.
    check_inputs : tuple of Tensor [n, ...], optional
        Real rows for the check; random ones otherwise.
    wide_layer_norm : bool
        Whether channels under a layer norm may go: it is then written out as several operations that divide by the
        old width, exact, but slower than the one it replaces (docs/compaction.md says by how much).

    Raises
    ------
    CompactionError
        If the network cannot be exported, a mask does not fit, or the float64 check against the masked eager
        module finds a relative difference above 1e-9 or outputs that do not depend on the inputs.
    """
    if isinstance(model, ExportedProgram):
        model = model.module(check_guards=False)
    if not isinstance(model, nn.Module):
        raise CompactionError(f"compact takes a module or an exported program, not {model!r:.80}")
    with torch.inference_mode(False), torch.no_grad():  # liveness is a gradient
        try:
            return _compact(model, example_inputs, masks, check_inputs, wide_layer_norm)
        except FairdeployError:
            raise
        except Exception as error:  # an operation or a use of one that no rule foresaw
            raise CompactionError(
                f"{type(model).__name__} holds something that compaction does not follow: {type(error).__name__}: "
                f"{error}; nothing was changed, and a report of it is welcome"
            ) from error


def _compact(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    masks: Masks | None,
    check_inputs: tuple[Tensor, ...] | None,
    wide_layer_norm: bool,
) -> CompactModel:
    rows = check_inputs_for(example_inputs, check_inputs)
    labelled = label_graph(trace(model, example_inputs, wide_layer_norm=wide_layer_norm))
    masked = model if masks is None else apply_masks(model, groups_of(labelled), masks)
    plain = baked(double(private_copy(masked).eval()))
    for kind, named in (("parameter", plain.named_parameters()), ("buffer", plain.named_buffers())):
        for name, tensor in named:
            if bool(tensor.isnan().any()) or (kind == "parameter" and not bool(tensor.isfinite().all())):
                raise CompactionError(f"{kind} '{name}' is not finite: it holds NaN or infinity")
    expected = Expected.of(double(private_copy(masked).eval()), rows)
    _load(labelled, plain)
    removal = plan(labelled)
    surgery = prepare(labelled, removal)
    recomputed = [name for name in labelled.trace.evaluated.names if _shrinks(labelled, surgery, name)]
    graph, groups = labelled.trace.graph_module, channels_by_group(labelled)
    carry_out(graph, surgery)
    proof = expected.prove(graph)
    own, why_not = _own_class(plain, surgery, labelled, recomputed, expected)
    dtypes = dtypes_of(model, labelled.trace.dtypes)
    for network in (graph, own):
        if network is not None:
            restore(network, dtypes)
    module, before = graph if own is None else own, baked(model)
    return CompactModel(
        module=module,
        graph_module=graph,
        not_own_class=why_not,
        macs_before=count_macs(model, example_inputs),
        macs_after=count_macs(graph, example_inputs),
        parameters_before=count_parameters(before),
        parameters_after=count_parameters(module),
        bytes_before=count_bytes(before),
        bytes_after=count_bytes(module),
        removed=_widths(groups, removal),
        kept_because=_reasons(groups, removal),
        whole={name: reason for name, (_, reason) in groups.items() if reason is not None},
        unknown_ops=tuple(labelled.unknown),
        proof=proof,
        example_inputs=example_inputs,
        masked=baked(masked) if own is None else None,
        wide_layer_norm=wide_layer_norm,
    )


def _evaluation_graph(module: nn.Module, example_inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    """Return what a network computes in evaluation mode, operation by operation, with only tensors that are read."""
    graph = exported(module, tuple(rows_of(value, BATCH) for value in example_inputs))
    carry_out(graph, Surgery({}))
    return graph


def _load(labelled: LabelledGraph, plain: nn.Module) -> None:
    """Copy the masked parameters and buffers into the graph."""
    graph = labelled.trace.graph_module
    tensors = dict(plain.named_parameters(remove_duplicate=False)) | dict(plain.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for name, tensor in tensors.items():
            place = find(graph, name)
            if place is not None:
                place.copy_(tensor)
    labelled.trace.evaluated.refresh()


def _shrinks(labelled: LabelledGraph, surgery: Surgery, name: str) -> bool:
    return name in surgery.tensors and surgery.tensors[name].shape != stored(labelled.trace.graph_module, name).shape


def _own_class(
    plain: nn.Module, surgery: Surgery, labelled: LabelledGraph, recomputed: list[str], expected: Expected
) -> tuple[nn.Module | None, str | None]:
    """Return the user's class with smaller tensors if it runs and is equal, else why not."""
    name, evaluated = type(plain).__name__, labelled.trace.evaluated.names
    if surgery.added:
        return None, f"{name} has no place for the constants that removed channels leave at padded borders"
    if surgery.scaled:
        return None, f"{name} would divide the sums in its means by their smaller width"
    if surgery.replaced:
        return None, f"{name} would go on computing what does not depend on its input"
    if recomputed:
        raw = evaluated[recomputed[0]] or recomputed[0]
        return None, f"{name} computes '{raw}' anew from parameters that are no smaller"
    held = dict(plain.named_parameters(remove_duplicate=False)) | dict(plain.named_buffers(remove_duplicate=False))
    tensors = {n: tensor for n, tensor in surgery.tensors.items() if n in held or n in surgery.new_biases}
    try:
        own = put_back(plain, tensors, surgery.groups)
        expected.prove(own)
    except CompactionError as error:
        return None, f"{name} cannot hold the smaller tensors: {error}"
    except Exception as error:  # the user's forward holds an old size: any exception may come
        return None, f"{name}.forward does not run on smaller tensors ({type(error).__name__}: {error})"
    return own, None


def _widths(groups: Groups, removal: Plan) -> dict[str, tuple[int, int]]:
    return {
        name: (len(roots), int(removal.stays[roots].sum()))
        for name, (roots, reason) in groups.items()
        if reason is None
    }


def _reasons(groups: Groups, removal: Plan) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for name, (roots, _) in groups.items():
        counts: dict[str, int] = {}
        for root in roots:
            if root in removal.kept_because:
                counts[removal.kept_because[root]] = counts.get(removal.kept_because[root], 0) + 1
        if counts:
            reasons[name] = "; ".join(f"{count} of {len(roots)}: {why}" for why, count in counts.items())
    return reasons
