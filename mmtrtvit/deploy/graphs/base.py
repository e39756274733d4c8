"""What every deployable graph shares: its options, its contract of names and shapes, its input, the registry.

A graph is an ``nn.Module`` that takes one image tensor and returns plain tensors of fixed shapes; it is what the
exporter sees, and it runs in PyTorch as well. It never knows a backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from mmtrtvit.deploy.ops.nms import NMSOptions
from mmtrtvit.errors import UserError

INPUT = 'image'
IMAGE_DTYPES = ('float32', 'uint8')
SEGMENTATION_OUTPUTS = ('label_map', 'logits')
OPERATOR_FORMS = ('static', 'onnx')


class UnsupportedModelError(UserError, ValueError):
    """A model, head or setting that has no graph; the message says what is supported and how to add one."""


@dataclass(frozen=True)
class GraphOptions:
    """How a model becomes a graph.

    Attributes:
        height: Height of the input canvas, pixels.
        width: Width of the input canvas, pixels.
        batch_size: Images per call, the ``B`` of all shapes.
        image_dtype: ``'float32'``: a normalised ``(B, 3, H, W)`` image, as the model's data preprocessor makes it;
            ``'uint8'``: ``(B, H, W, 3)`` in the channel order of ``cv2.imread``, normalised inside the graph.
        nms: The form of non-maximum suppression and its limits.
        roi_align: ``'static'``: plain tensors; ``'onnx'``: the backend's own RoiAlign node.
        deform_conv: ``'static'``: plain tensors, once exported; ``'onnx'``: the backend's own DeformConv node.
        roi_sampling_ratio: Sampling points per RoIAlign bin and axis, in place of the model's own; needed with
            ``'static'`` for a model whose ratio is mmdet's adaptive 0, which has no static form.
        max_dets: Detections per image, the ``M`` of all shapes; None takes the model's ``max_per_img``.
        segmentation_output: ``'label_map'`` or ``'logits'``.
    """

    height: int
    width: int
    batch_size: int = 1
    image_dtype: str = 'float32'
    nms: NMSOptions = field(default_factory=NMSOptions)
    roi_align: Literal['static', 'onnx'] = 'static'
    deform_conv: Literal['static', 'onnx'] = 'static'
    roi_sampling_ratio: int | None = None
    max_dets: int | None = None
    segmentation_output: str = 'label_map'

    def __post_init__(self) -> None:
        for name in ('height', 'width', 'batch_size', 'max_dets', 'roi_sampling_ratio'):
            value = getattr(self, name)
            if value is None and name in ('max_dets', 'roi_sampling_ratio'):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f'{name}={value!r}: a whole number of at least 1 is needed')
        for name, allowed in (
            ('image_dtype', IMAGE_DTYPES),
            ('roi_align', OPERATOR_FORMS),
            ('deform_conv', OPERATOR_FORMS),
            ('segmentation_output', SEGMENTATION_OUTPUTS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f'{name}={getattr(self, name)!r} is not one of {", ".join(allowed)}')

    @property
    def shape(self) -> tuple[int, int]:
        """``(H, W)`` of the input canvas."""
        return self.height, self.width


class Float32Island(nn.Module):
    """A part whose values must not pass through fp16 or int8; the precision passes read its scope off the graph.

    Coordinates: at 1000 pixels fp16 steps by half a pixel. Scores: sorting wants them apart, and fp16 has 11 bits.
    """


class Normalize(Float32Island):
    """The image as the model's data preprocessor hands it to the backbone.

    Args:
        preprocessor: The model's data preprocessor (``mean``, ``std``, ``channel_conversion`` of mmengine).
        dtype: As ``GraphOptions.image_dtype``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessor: Any, dtype: str) -> None:
        super().__init__()
        self.dtype = dtype
        # mmdet's, mmseg's and mmpretrain's names for the same
        names = ('_channel_conversion', 'channel_conversion', 'to_rgb')
        self.flip = any(bool(getattr(preprocessor, name, False)) for name in names)
        mean, std = getattr(preprocessor, 'mean', None), getattr(preprocessor, 'std', None)
        zero, one = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
        self.register_buffer('mean', zero if mean is None else mean.detach().float().reshape(-1, 1, 1).cpu())
        self.register_buffer('std', one if std is None else std.detach().float().reshape(-1, 1, 1).cpu())

    def forward(self, image: Tensor) -> Tensor:
        """Return ``(B, 3, H, W)`` float32; ``image`` is that already, or ``(B, H, W, 3)`` uint8."""
        if self.dtype == 'float32':
            return image
        image = image.float().permute(0, 3, 1, 2)  # (B, 3, H, W); TensorRT transposes no uint8
        if self.flip:
            image = image.flip(1)
        return (image - self.mean) / self.std


class DeployGraph(nn.Module):
    """A trained model as a module with tensors in and tensors out.

    Args:
        model: A detector, segmentor or classifier in eval mode; the graph shares its weights.
        options: The canvas, the batch, the forms of the operations.

    Attributes:
        task: ``'detection'``, ``'instance-segmentation'``, ``'segmentation'`` or ``'classification'``.
        output_names: The names of the outputs, in order.
        max_dets: Rows of a detector's outputs, 0 elsewhere.
        mask_size: Height and width of a mask, 0 without masks.
    """

    task: str = ''
    output_names: tuple[str, ...] = ()
    max_dets: int = 0
    mask_size: int = 0

    def __init__(self, model: Any, options: GraphOptions) -> None:
        super().__init__()
        self.options = options
        self.normalize = Normalize(model.data_preprocessor, options.image_dtype)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of ``image``."""
        b, h, w = self.options.batch_size, self.options.height, self.options.width
        return (b, 3, h, w) if self.options.image_dtype == 'float32' else (b, h, w, 3)

    def example_input(self) -> Tensor:
        """Return an image of the contract's shape and type, random and reproducible."""
        generator = torch.Generator().manual_seed(0)
        if self.options.image_dtype == 'uint8':
            return torch.randint(0, 256, self.input_shape, dtype=torch.uint8, generator=generator)
        return torch.randn(self.input_shape, generator=generator)

    def float32_scopes(self) -> list[str]:
        """Return the module paths whose values must stay float32."""
        return [name for name, module in self.named_modules() if isinstance(module, Float32Island)]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs in the order of ``output_names``."""
        raise NotImplementedError


#: Head or model class name to what makes the graph's part for it.
MODEL_GRAPHS: dict[str, Callable[[nn.Module, GraphOptions], DeployGraph]] = {}
DENSE_HEADS: dict[str, type[nn.Module]] = {}
ROI_HEADS: dict[str, type[nn.Module]] = {}

_T = TypeVar('_T', bound=type)


def register(table: dict[str, Any], *names: str) -> Callable[[_T], _T]:
    """Enter a class into one of the tables under the class names of the heads or models that it deploys."""

    def enter(cls: _T) -> _T:
        for name in names:
            if name in table:
                raise ValueError(f'{name} has a graph already: {table[name].__name__}')
            table[name] = cls
        return cls

    return enter


def lookup(table: dict[str, Any], part: Any, what: str) -> Any:
    """Return the entry for the class of ``part``; a subclass may compute something else, so names are exact.

    Raises:
        UnsupportedModelError: There is none; says what there is.
    """
    name = type(part).__name__
    if name not in table:
        raise UnsupportedModelError(
            f'{what} {name} has no deployable graph. Supported: {", ".join(sorted(table))}. '
            'docs/deployment.md, "Adding a head", shows how to add one'
        )
    return table[name]


def build_graph(model: Any, options: GraphOptions, kind: type[DeployGraph] | None = None) -> DeployGraph:
    """Turn a model of mmdet, mmseg or mmpretrain into its graph.

    Args:
        model: The built model, weights loaded; put into eval mode. Parts that can fold themselves
            (``switch_to_deploy``) are folded in place, plain tensors become buffers: pass a copy to go on training.
        options: The canvas, the batch, the forms of the operations.
        kind: The graph's class; None for the one that is registered for the model.

    Raises:
        UnsupportedModelError: No graph for this model or one of its heads or settings.
    """
    model.eval()
    for module in list(model.modules()):
        if module is not model and hasattr(module, 'switch_to_deploy'):
            module.switch_to_deploy()
        # a plain tensor, such as VarifocalNet's star, is copied from the host in each call: no CUDA graph can hold that
        for name in [name for name, value in vars(module).items() if isinstance(value, Tensor)]:
            value = module.__dict__.pop(name)
            module.register_buffer(name, value.float() if value.is_floating_point() else value, persistent=False)
    chosen = kind or lookup(MODEL_GRAPHS, model, 'model')
    graph: DeployGraph = chosen(model, options).eval()
    return graph


def feature_shapes(features: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Return ``(H, W)`` of each level."""
    return [(int(f.shape[-2]), int(f.shape[-1])) for f in features]
