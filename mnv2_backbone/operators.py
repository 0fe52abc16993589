"""``mmcv._ext`` where mmcv has none: its compiled operators, as far as torchvision and PyTorch compute the same.

:mod:`mnv2_backbone.finder` loads it under that name. The functions take what those of the compiled module take, and
fill the tensors that are passed for results. Any other operator raises ``NotImplementedError`` when it is called.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def __getattr__(name: str) -> Callable[..., Any]:
    if name.startswith('__'):
        raise AttributeError(name)

    def missing(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(
            f'mmcv.ops: {name} needs a compiled mmcv; torchvision, which serves here instead, has no such operator. '
            'To compile it: pip uninstall mmcv-lite; pip install --no-build-isolation mmcv==2.1.0 (docs/installed.md)'
        )

    return missing


def get_compiler_version() -> str:
    """What reports of the environment name."""
    return f'none, operators of torchvision {distribution("torchvision").version}'


get_compiling_cuda_version = get_compiler_version


def _fill_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor, *targets: Tensor, scale: float = 1
) -> None:
    """Adds the gradients of a function, which is computed once more, to ``targets``."""
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in inputs]
        for target, found in zip(targets, torch.autograd.grad(function(*inputs), inputs, grad)):
            target.add_(found, alpha=scale)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Boxes (N, 4) and scores (N,) to the positions of those that stay; sides are ``x2 - x1 + offset``."""
    kept: Tensor = _nms()(boxes + boxes.new_tensor([0, 0, offset, offset]), scores, iou_threshold)
    return kept


@cache
def _nms() -> Callable[..., Any]:
    """torchvision's, from its library alone: every detector needs it, and ``import torchvision`` takes seconds."""
    try:
        for library in Path(str(distribution('torchvision').locate_file('torchvision'))).glob('_C*'):
            torch.ops.load_library(str(library))
        return torch.ops.torchvision.nms
    except (OSError, AttributeError):
        from torchvision.ops import nms

        return nms


def softnms(boxes: Tensor, scores: Tensor, dets: Tensor, **options: Any) -> Tensor:
    """As :func:`nms`, but lowers scores: ``method`` 0 to zero, 1 linearly, 2 by a Gaussian; fills ``dets`` (N, 5)."""
    first, last = boxes[:, :2], boxes[:, 2:] + options['offset']
    areas, scores, rest = (last - first).prod(1), scores.clone(), torch.arange(len(boxes))
    kept: list[int] = []
    while len(rest):
        i = int(rest[scores[rest].argmax()])
        dets[len(kept)] = torch.cat([boxes[i], scores[i, None]])
        kept.append(i)
        rest = rest[rest != i]
        sides = torch.minimum(last[i], last[rest]) - torch.maximum(first[i], first[rest])
        inter = sides.clamp(min=0).prod(1)
        iou = inter / (areas[i] + areas[rest] - inter)
        if options['method'] == 2:
            scores[rest] *= torch.exp(-iou.square() / options['sigma'])
        else:
            scores[rest] *= torch.where(iou >= options['iou_threshold'], (1 - iou) * options['method'], 1.0)
        rest = rest[scores[rest] >= options['min_score']]
    return torch.tensor(kept, dtype=torch.long)


def roi_align_forward(x: Tensor, rois: Tensor, output: Tensor, *_: Tensor, **options: Any) -> None:
    """Maps (N, C, H, W) and RoIs (R, 5) to ``output`` (R, C, h, w)."""
    output.copy_(_aligned(options)(x, rois))


def roi_align_backward(grad: Tensor, rois: Tensor, _: Tensor, __: Tensor, grad_x: Tensor, **options: Any) -> None:
    """Fills ``grad_x`` (N, C, H, W); the function is linear, so it is the same for all maps."""
    _fill_gradients(lambda x: _aligned(options)(x, rois), [grad_x.clone()], grad, grad_x)


def _aligned(options: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor]:
    if options['pool_mode'] == 0:
        return __getattr__("roi_align with pool_mode='max'")
    size = (options['aligned_height'], options['aligned_width'])
    rest = (options['spatial_scale'], options['sampling_ratio'], options['aligned'])
    from torchvision.ops import roi_align

    return lambda x, rois: roi_align(x, rois.to(x), size, *rest)


def roi_pool_forward(x: Tensor, rois: Tensor, output: Tensor, argmax: Tensor, **options: Any) -> None:
    """Maps (N, C, H, W), RoIs (R, 5) to ``output`` and ``argmax`` (R, C, h, w); torchvision's rounds RoIs otherwise."""
    argmax.fill_(-1)
    columns = _bins(rois[:, 1], rois[:, 3] + 1, options['pooled_width'], x.shape[3], options['spatial_scale'])
    rows = _bins(rois[:, 2], rois[:, 4] + 1, options['pooled_height'], x.shape[2], options['spatial_scale'])
    for r, image in enumerate(rois[:, 0].long().tolist()):
        for i, (top, bottom) in enumerate(rows[r]):
            for j, (left, right) in enumerate(columns[r]):
                if top < bottom and left < right:
                    output[r, :, i, j], place = x[image, :, top:bottom, left:right].flatten(1).max(1)
                    argmax[r, :, i, j] = (top + place // (right - left)) * x.shape[3] + left + place % (right - left)


def _bins(first: Tensor, last: Tensor, number: int, size: int, scale: float) -> list[list[list[int]]]:
    """Where the bins of each RoI begin and end on a side of the map."""
    start, length = first * scale, last * scale - first * scale
    places = torch.arange(number + 1, device=first.device) * (length / number)[:, None] + start[:, None]
    bins = torch.stack([places[:, :-1].floor(), places[:, 1:].ceil()], 2).clamp(0, size)
    found: list[list[list[int]]] = torch.where((length > 0)[:, None, None], bins, 0).long().tolist()
    return found


def roi_pool_backward(grad: Tensor, rois: Tensor, argmax: Tensor, grad_x: Tensor, **_: Any) -> None:
    """Fills ``grad_x`` (N, C, H, W)."""
    for r, image in enumerate(rois[:, 0].long().tolist()):
        places = argmax[r].flatten(1).long()
        grad_x[image].flatten(1).scatter_add_(1, places.clamp(min=0), grad[r].flatten(1) * (places >= 0))


def _deformable(options: dict[str, Any], *names: str) -> Callable[..., Tensor]:
    """torchvision's convolution with mmcv's options; ``names`` are what those for height and width are called."""
    pairs = [tuple(options[name.format(side)] for side in names[:2]) for name in names[2:]]
    from torchvision.ops import deform_conv2d

    return lambda x, offset, weight, *rest: deform_conv2d(x, offset, weight, None, *pairs, *rest)


_V1, _V2 = ('H', 'W', 'd{}', 'pad{}', 'dilation{}'), ('h', 'w', 'stride_{}', 'pad_{}', 'dilation_{}')


def deform_conv_forward(x: Tensor, weight: Tensor, offset: Tensor, output: Tensor, *_: Tensor, **options: Any) -> None:
    """Deformable convolution v1."""
    output.copy_(_deformable(options, *_V1)(x, offset, weight))


def deform_conv_backward_input(x: Tensor, offset: Tensor, grad: Tensor, *others: Tensor, **options: Any) -> None:
    """Fills the gradients of ``x`` and ``offset``, the first of the others, before the weights."""
    convolve = _deformable(options, *_V1)
    _fill_gradients(lambda x, offset: convolve(x, offset, others[2]), [x, offset], grad, *others[:2])


def deform_conv_backward_parameters(
    x: Tensor, offset: Tensor, grad: Tensor, grad_weight: Tensor, *_: Tensor, scale: float, **options: Any
) -> None:
    """Fills the gradient of the weights."""
    convolve = _deformable(options, *_V1)
    _fill_gradients(lambda w: convolve(x, offset, w), [grad_weight.clone()], grad, grad_weight, scale=scale)


def modulated_deform_conv_forward(
    x: Tensor, weight: Tensor, bias: Tensor, _: Tensor, offset: Tensor, mask: Tensor, output: Tensor, *__: Tensor,
    **options: Any,
) -> None:  # fmt: skip
    """Deformable convolution v2."""
    output.copy_(_deformable(options, *_V2)(x, offset, weight, mask))
    if options['with_bias']:
        output.add_(bias[:, None, None])


def modulated_deform_conv_backward(
    x: Tensor, weight: Tensor, bias: Tensor, _: Tensor, offset: Tensor, mask: Tensor, __: Tensor, *grads: Tensor,
    **options: Any,
) -> None:  # fmt: skip
    """Fills the gradients of ``x``, ``weight``, ``bias``, ``offset`` and ``mask``; the last of all is the output's."""
    grad_x, grad_weight, grad_bias, grad_offset, grad_mask, grad = grads
    targets = (grad_x, grad_offset, grad_weight, grad_mask)
    _fill_gradients(_deformable(options, *_V2), [x, offset, weight, mask], grad, *targets)
    if options['with_bias']:
        grad_bias.add_(grad.sum((0, 2, 3)))


def sigmoid_focal_loss_forward(x: Tensor, target: Tensor, weight: Tensor, output: Tensor, **options: float) -> None:
    """Logits (N, C) and classes (N,), C for none, to losses (N, C)."""
    output.copy_(_focal(target, weight, options)(x))


def sigmoid_focal_loss_backward(x: Tensor, target: Tensor, weight: Tensor, grad_x: Tensor, **options: float) -> None:
    """Fills ``grad_x`` (N, C)."""
    _fill_gradients(_focal(target, weight, options), [x], torch.ones_like(x), grad_x)


def _focal(target: Tensor, weight: Tensor, options: dict[str, float]) -> Callable[[Tensor], Tensor]:
    if weight.numel():
        return __getattr__('sigmoid_focal_loss with weights of classes')
    from torchvision.ops import sigmoid_focal_loss

    return lambda x: sigmoid_focal_loss(
        x, torch.nn.functional.one_hot(target, x.shape[1] + 1)[:, :-1].to(x), options['alpha'], options['gamma']
    )
