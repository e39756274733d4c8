"""Focal losses through ``mmcv.ops``, beside the formulas on PyTorch's own cross entropies."""

from __future__ import annotations

import mmcv.ops
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from tests.devices import ACCELERATORS, DEVICES


def case(dtype: torch.dtype, device: str, background: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Logits ``(40, 5)``, targets with background (5), class weights."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((40, 5), generator=generator, dtype=torch.float64) * 3
    target = torch.randint(0, 6 if background else 5, (40,), generator=generator)
    weight = torch.rand(5, generator=generator, dtype=torch.float64) + 0.5
    return logits.to(dtype).to(device).requires_grad_(), target.to(device), weight.to(dtype).to(device)


def reduced(loss: Tensor, rows: int, reduction: str) -> Tensor:
    return {'none': loss, 'sum': loss.sum(), 'mean': loss.sum() / rows}[reduction]


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('reduction', ['none', 'sum', 'mean'])
@pytest.mark.parametrize(('gamma', 'alpha'), [(2.0, 0.25), (0.5, 0.75), (0.0, 0.5)])
@pytest.mark.parametrize('weighted', [False, True])
def test_sigmoid_focal_loss(device: str, reduction: str, gamma: float, alpha: float, weighted: bool) -> None:
    logits, target, weight = case(torch.float64, device)
    if reduction == 'none':  # mmcv multiplies the gradient elementwise, so any upstream gradient is allowed
        upstream = torch.rand_like(logits)
    else:
        upstream = logits.new_tensor(1.5)
    one_hot = F.one_hot(target, 6)[:, :5].to(logits)
    other = logits.detach().clone().requires_grad_()
    loss = torchvision.ops.sigmoid_focal_loss(other, one_hot, alpha, gamma, 'none')
    if weighted:
        loss = loss * torch.cat([weight, weight.new_ones(1)])[target][:, None]
    expected = reduced(loss, 40, reduction)
    actual = mmcv.ops.sigmoid_focal_loss(logits, target, gamma, alpha, weight if weighted else None, reduction)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9)
    actual.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(logits.grad, other.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('reduction', ['sum', 'mean'])
@pytest.mark.parametrize(('gamma', 'alpha'), [(2.0, 0.25), (0.5, 0.75), (0.0, 1.0)])
@pytest.mark.parametrize('weighted', [False, True])
def test_softmax_focal_loss(device: str, reduction: str, gamma: float, alpha: float, weighted: bool) -> None:
    logits, target, weight = case(torch.float64, device)
    other = logits.detach().clone().requires_grad_()
    counts = target < 5
    cross_entropy = F.cross_entropy(other, target.clamp(max=4), reduction='none')
    loss = alpha * (1 - (-cross_entropy).exp()) ** gamma * cross_entropy * counts
    if weighted:
        loss = loss * weight[target.clamp(max=4)]
    expected = reduced(loss, 40, reduction)
    actual = mmcv.ops.softmax_focal_loss(logits, target, gamma, alpha, weight if weighted else None, reduction)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9)
    actual.backward()
    expected.backward()
    torch.testing.assert_close(logits.grad, other.grad, rtol=1e-6, atol=1e-9)
    assert torch.equal(logits.grad[~counts], torch.zeros_like(logits.grad[~counts]))


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('op', ['sigmoid_focal_loss', 'softmax_focal_loss'])
def test_gradient_is_numerical(device: str, op: str) -> None:
    logits, target, weight = case(torch.float64, device)
    assert torch.autograd.gradcheck(
        lambda x: getattr(mmcv.ops, op)(x, target, 2.0, 0.25, weight, 'sum'), logits, atol=1e-6
    )


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('op', ['sigmoid_focal_loss', 'softmax_focal_loss'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_saturated_logits_stay_finite(device: str, op: str, dtype: torch.dtype, gamma: float) -> None:
    """Where a probability rounds to 0 or 1, and 0 * inf lurks in the formulas."""
    logits = torch.tensor([[200.0, -200], [-200, 200], [40, -40], [0, 0]], dtype=dtype, device=device)
    logits.requires_grad_()
    target = torch.tensor([0, 0, 0, 1], device=device)
    loss = getattr(mmcv.ops, op)(logits, target, gamma, 0.25, None, 'sum')
    loss.backward()
    assert loss.dtype == dtype
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert loss > 10


def test_modules() -> None:
    logits, target, weight = case(torch.float32, 'cpu', background=False)
    for layer, op in (
        (mmcv.ops.SigmoidFocalLoss(2.0, 0.25, weight), mmcv.ops.sigmoid_focal_loss),
        (mmcv.ops.SoftmaxFocalLoss(2.0, 0.25, weight), mmcv.ops.softmax_focal_loss),
    ):
        torch.testing.assert_close(layer(logits, target), op(logits, target, 2.0, 0.25, weight, 'mean'))


def test_mmdet_uses_it() -> None:
    """mmdet's FocalLoss calls the op on CUDA, and its own formula on CPU: both agree."""
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss, sigmoid_focal_loss

    logits, target, _ = case(torch.float32, 'cpu')
    fused = sigmoid_focal_loss(logits, target, gamma=2.0, alpha=0.25, reduction='sum')
    one_hot = F.one_hot(target, 6)[:, :5]
    plain = py_sigmoid_focal_loss(logits, one_hot, gamma=2.0, alpha=0.25, reduction='sum')
    torch.testing.assert_close(fused, plain)


@pytest.mark.parametrize('op', ['sigmoid_focal_loss', 'softmax_focal_loss'])
def test_a_target_beyond_background_is_refused(op: str) -> None:
    with pytest.raises(RuntimeError, match=r'target holds 7, but the logits have 5 classes'):
        getattr(mmcv.ops, op)(torch.zeros(2, 5), torch.tensor([0, 7]))


@pytest.mark.parametrize('device', ACCELERATORS)
@pytest.mark.parametrize('op', ['sigmoid_focal_loss', 'softmax_focal_loss'])
def test_on_an_accelerator_a_target_beyond_background_is_background(op: str, device: str) -> None:
    """A check would wait for the device in every iteration."""
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).to(device)
    found, expected = (
        getattr(mmcv.ops, op)(logits, torch.tensor([0, beyond], device=device), 2.0, 0.25, None, 'none')
        for beyond in (7, 5)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('op', ['sigmoid_focal_loss', 'softmax_focal_loss'])
def test_no_rows(op: str) -> None:
    logits = torch.zeros((0, 5), requires_grad=True)
    loss = getattr(mmcv.ops, op)(logits, torch.zeros(0).long(), 2.0, 0.25, None, 'sum')
    loss.backward()
    assert loss == 0
    assert logits.grad.shape == (0, 5)
