"""Focal losses (Lin et al., arXiv 1708.02002) of classification logits.

mmcv has them on CUDA only; here they also run on CPU. They compute in float32 at least: mmcv's half kernel
takes the logarithm of 0 as soon as a probability saturates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmtrtvit.compat.mmcv_ext.common import as_float32, compute_dtype

_TINY = torch.finfo(torch.float32).tiny  # C's FLT_MIN, mmcv's floor below a logarithm


@torch.no_grad()
def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss of every logit into ``output``.

    Args:
        input: Logits ``(N, C)``.
        target: Classes ``(N,)``; C, or a negative number, is background: no class is positive.
        weight: Weight of each class ``(C,)``, or empty for none. A row is weighted by its target's; background
            rows, for which mmcv reads beyond the array, by 1.
        output: ``(N, C)``, overwritten.
        gamma: Exponent of the modulating factor.
        alpha: Weight of the positive term; the negative one has 1 - alpha.

    Raises:
        RuntimeError: On CPU: a target is larger than C. On CUDA it counts as background.
    """
    _check_target(target, input.size(1))
    alpha, gamma = as_float32(alpha), as_float32(gamma)
    p = input.to(compute_dtype(input)).sigmoid()
    q = 1 - p  # not sigmoid(-x): mmcv's loss is flat where this rounds to 0
    positive = -alpha * q.pow(gamma) * p.clamp(min=_TINY).log()
    negative = -(1 - alpha) * p.pow(gamma) * q.clamp(min=_TINY).log()
    output.copy_(torch.where(_is_target(target, p), positive, negative) * _row_weight(weight, target, p)[:, None])


@torch.no_grad()
def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivative of each element of the loss to its logit into ``grad_input``, ``(N, C)``."""
    alpha, gamma = as_float32(alpha), as_float32(gamma)
    p = input.to(compute_dtype(input)).sigmoid()
    q = 1 - p
    positive = -alpha * q.pow(gamma) * (q - gamma * p * p.clamp(min=_TINY).log())
    negative = -(1 - alpha) * p.pow(gamma) * (gamma * q * q.clamp(min=_TINY).log() - p)
    grad_input.copy_(torch.where(_is_target(target, p), positive, negative) * _row_weight(weight, target, p)[:, None])


@torch.no_grad()
def softmax_focal_loss_forward(
    softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss of every row into ``output``.

    Args:
        softmax: Probabilities ``(N, C)``.
        target: Classes ``(N,)``. A row whose target is negative or C has no loss; for C mmcv would read
            beyond the row.
        weight: Weight of each class ``(C,)``, or empty for none.
        output: ``(N,)``, overwritten.
        gamma: Exponent of the modulating factor.
        alpha: Weight of the whole loss.

    Raises:
        RuntimeError: On CPU: a target is larger than C. On CUDA it counts as background.
    """
    _check_target(target, softmax.size(1))
    p, counts = _target_probability(softmax, target)
    loss = -as_float32(alpha) * (1 - p).pow(as_float32(gamma)) * p.clamp(min=_TINY).log()
    output.copy_(torch.where(counts, loss * _row_weight(weight, target, softmax), 0))


@torch.no_grad()
def softmax_focal_loss_backward(
    softmax: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivative of each row's loss to the row's logits into ``grad_input``, ``(N, C)``.

    ``buff``, ``(N,)``, receives the derivative to the logarithm of the target's probability.
    """
    alpha, gamma = as_float32(alpha), as_float32(gamma)
    p, counts = _target_probability(softmax, target)
    q = 1 - p
    # (1 - p)^(gamma - 1) is infinite at p = 1 for gamma < 1, where its product with log p is to be 0
    slope = torch.where(p < 1, gamma * q.pow(gamma - 1) * p * p.clamp(min=_TINY).log(), 0)
    row = torch.where(counts, alpha * (slope - q.pow(gamma)) * _row_weight(weight, target, softmax), 0)
    buff.copy_(row)
    grad_input.copy_(row[:, None] * (_is_target(target, softmax).to(p) - softmax.to(p)))


def _check_target(target: Tensor, num_classes: int) -> None:
    """On CUDA the check would wait for the device in every iteration, which mmcv's kernel does not."""
    if target.device.type == 'cpu' and target.numel() and (largest := int(target.max())) > num_classes:
        raise RuntimeError(
            f'focal loss: target holds {largest}, but the logits have {num_classes} classes; '
            f'targets are 0..{num_classes - 1}, and {num_classes} for background'
        )


def _is_target(target: Tensor, like: Tensor) -> Tensor:
    """``(N, C)`` mask of each row's target; no class of a background row."""
    return target[:, None] == torch.arange(like.size(1), device=like.device)


def _row_weight(weight: Tensor, target: Tensor, like: Tensor) -> Tensor:
    """``(N,)`` weights, 1 without class weights and for background."""
    if weight.numel() == 0:
        return torch.ones((), dtype=compute_dtype(like), device=like.device).expand(len(target))
    known = (target >= 0) & (target < weight.numel())
    return torch.where(known, weight.to(compute_dtype(like))[target.clamp(0, weight.numel() - 1)], 1)


def _target_probability(softmax: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """``(N,)`` probabilities of the targets, and whether each target is a class."""
    counts = (target >= 0) & (target < softmax.size(1))
    index = target.clamp(0, softmax.size(1) - 1)
    return softmax.to(compute_dtype(softmax)).gather(1, index[:, None])[:, 0], counts
