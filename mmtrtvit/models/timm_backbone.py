"""A backbone of timm's (Next-ViT, RegNetY and others) for mmdet, mmsegmentation and mmpretrain.

mmpretrain has a wrapper of the same purpose. This one counts the stages as all other backbones here do, downloads
weights when the model is initialized and not when it is built, and says how to get timm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS

from mmtrtvit.models.blocks import is_integer

NUM_STAGES = 4


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """A model of timm's as a backbone of four stages.

    Args:
        model_name: timm's name of it, such as ``nextvit_small``.
        out_indices: Stages to return, 0 to 3: strides 4, 8, 16 and 32. None returns the one map that timm's own
            classifier pools, behind the final norm where the model has one.
        pretrained: Whether ``init_weights()`` loads timm's weights, from the Hugging Face Hub or its cache.
        in_channels: Channels of the image.
        init_cfg: Must be None: timm initializes its models itself.
        **kwargs: More arguments of the model, such as ``drop_path_rate``.

    Raises:
        ImportError: timm is not installed.
        ValueError: If an argument does not make sense, or timm has no such model.
    """

    def __init__(
        self,
        model_name: str,
        out_indices: int | Sequence[int] | None = None,
        pretrained: bool | None = False,
        in_channels: int = 3,
        init_cfg: None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if init_cfg is not None:
            raise ValueError(f'TimmBackbone: init_cfg={init_cfg!r}; write pretrained=True for weights of timm')
        self.model_name = model_name
        self.out_indices = _stages(out_indices)
        self.pretrained = bool(pretrained)
        self.options = dict(kwargs, in_chans=in_channels)
        self.network = self._create(pretrained=False)

    def _create(self, pretrained: bool) -> Any:
        try:
            import timm
        except ImportError as error:
            raise ImportError(
                f"TimmBackbone: {self.model_name} is timm's, which is not installed: pip install 'mmtrtvit[benchmark]'"
            ) from error
        if not timm.is_model(self.model_name):
            near = timm.list_models(f'*{self.model_name.split("_")[0]}*')
            hint = f'; it has {", ".join(near)}' if near else ''
            raise ValueError(f'TimmBackbone: timm {timm.__version__} has no model {self.model_name!r}{hint}')
        if self.out_indices is None:
            return timm.create_model(
                self.model_name, pretrained=pretrained, num_classes=0, global_pool='', **self.options
            )
        # from the end: some of timm's models count the stem as their first feature
        last_stages = tuple(index - NUM_STAGES for index in self.out_indices)
        return timm.create_model(
            self.model_name, pretrained=pretrained, features_only=True, out_indices=last_stages, **self.options
        )

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each returned map."""
        if self.out_indices is None:
            return (self.network.num_features,)
        return tuple(self.network.feature_info.channels())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map images ``(B, in_channels, H, W)`` to a map ``(B, C, h, w)`` per index."""
        if self.out_indices is None:
            return (self.network.forward_features(x),)
        return tuple(self.network(x))

    def init_weights(self) -> None:
        """Load timm's weights if asked for; timm has initialized the rest when it built the model."""
        if self.pretrained:
            self.network.load_state_dict(self._create(pretrained=True).state_dict())


def _stages(out_indices: int | Sequence[int] | None) -> tuple[int, ...] | None:
    if out_indices is None:
        return None
    given = tuple(out_indices) if isinstance(out_indices, (list, tuple, range)) else (out_indices,)
    if not given or not all(is_integer(index) and 0 <= index < NUM_STAGES for index in given):
        raise ValueError(
            f'TimmBackbone: out_indices={out_indices!r} is not one or some of the stages 0 to {NUM_STAGES - 1}, or None'
        )
    return tuple(sorted(set(given)))
