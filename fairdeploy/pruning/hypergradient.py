"""The gradient of an upper level through the answer of a lower one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
Loss = Callable[[Weights, Tensor], Tensor]


def hypergradient(upper: Loss, lower: Loss, weights: Weights, variables: Tensor, *, step: float) -> Tensor:
    r"""Return the derivative of the upper loss by the upper variables, the weights answering with one step.

    With :math:`\theta' = \theta - s \nabla_\theta g(\theta, \alpha)` for the lower loss g and the upper loss f it is

    .. math:: \nabla_\alpha f(\theta', \alpha) - s \nabla^2_{\alpha\theta} g(\theta, \alpha) \nabla_{\theta'} f

    (Liu et al., "DARTS", ICLR 2019, equation 7; the implicit gradient of Zhang et al., "BiP", NeurIPS 2022, equation 6,
    with the lower level's Hessian taken as the identity divided by the step).

    Parameters
    ----------
    upper, lower : callable
        ``loss(weights, variables) -> Tensor []``.
    weights : mapping of str to Tensor
        Where the lower level stands; left as they are.
    variables : Tensor
        The upper level's, the same in both losses.
    step : float
        The lower level's learning rate; 0 leaves out its answer.

    Returns
    -------
    Tensor
        In the shape of the variables.
    """
    here = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
    alpha = variables.detach().requires_grad_()
    slopes = torch.autograd.grad(lower(here, alpha), list(here.values()), create_graph=True, allow_unused=True)
    moved = {
        name: tensor if slope is None else tensor - step * slope
        for (name, tensor), slope in zip(here.items(), slopes, strict=True)
    }
    (found,) = torch.autograd.grad(upper(moved, alpha), [alpha])
    return found
