"""Point-wise spatial attention masks (Zhao et al., ECCV 2018), for mmseg's PSANet."""

from __future__ import annotations

import torch
from torch import Tensor

#: mmcv's numbers of the two kinds of mask.
COLLECT, DISTRIBUTE = 0, 1


@torch.no_grad()
def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Spread each pixel's window of weights over the whole map, into ``output``.

    Args:
        input: ``(B, h_mask * w_mask, h_feature, w_feature)``: each pixel's window.
        output: ``(B, h_feature * w_feature, h_feature, w_feature)``. For ``collect`` the last two dimensions are
            the pixel that owns the window and the second the pixel it looks at; for ``distribute`` vice versa.
            Pairs out of each other's window are left as they are.
        psa_type: :data:`COLLECT` or :data:`DISTRIBUTE`.
        num_: B.
        h_feature: Height of the map.
        w_feature: Width of the map.
        h_mask: Height of the window.
        w_mask: Width of the window.
        half_h_mask: Rows of the window above its owner.
        half_w_mask: Columns left of it.
    """
    place, seen = _places((h_feature, w_feature), (h_mask, w_mask), (half_h_mask, half_w_mask), input.device)
    spread = input.flatten(2).gather(1, place.expand(num_, -1, -1))  # (B, looked at, owner)
    target = output.view(num_, h_feature * w_feature, -1)
    if psa_type == DISTRIBUTE:
        target = target.transpose(1, 2)
    target.copy_(torch.where(seen, spread, target))


@torch.no_grad()
def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the windows' gradient into ``grad_input``; weights that fall outside the map keep what it holds."""
    place, seen = _places((h_feature, w_feature), (h_mask, w_mask), (half_h_mask, half_w_mask), grad_output.device)
    grad = grad_output.reshape(num_, h_feature * w_feature, -1)
    if psa_type == DISTRIBUTE:
        grad = grad.transpose(1, 2)
    looked_at, owner = seen.nonzero(as_tuple=True)
    grad_input.view(num_, h_mask * w_mask, -1)[:, place[looked_at, owner], owner] = grad[:, looked_at, owner]


def _places(
    feature: tuple[int, int], mask: tuple[int, int], half: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Where in the owner's window each pixel lies, and whether it does; both ``(looked at, owner)``, pixels flat."""
    rows, columns = (torch.arange(size, device=device) for size in feature)
    down = rows[:, None] - rows + half[0]  # (looked at, owner)
    across = columns[:, None] - columns + half[1]
    seen = ((down >= 0) & (down < mask[0]))[:, None, :, None] & ((across >= 0) & (across < mask[1]))[None, :, None, :]
    place = down[:, None, :, None] * mask[1] + across[None, :, None, :]
    pixels = feature[0] * feature[1]
    return (place * seen).view(pixels, pixels), seen.view(pixels, pixels)
