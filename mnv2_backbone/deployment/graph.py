"""Networks as graphs for other runtimes, from images of any size to boxes or label maps."""

import copy
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from mmengine.logging import print_log
from torch import Tensor, nn

from ..errors import whole_file
from ..network.layers import ConvNormAct, SamePadding
from .folding import settle_padding
from .network import Detector, Segmenter
from .recipe import Recipe, Size

#: Candidates for NMS inside the graph if the config sets no limit, at least: four times the boxes wanted, or these.
MOST_CANDIDATES = 1000
#: Most translations to cache, see :func:`to_onnx`; the version of the cache, to be raised when their content changes.
_MOST_CACHED, _VERSION = 16, 3


def bilinear_by_torch(x: Tensor, height: int, width: int, centres: bool) -> Tensor:
    """Resizes (N, C, H, W) to (N, C, height, width); values are read at pixel centres, or else at corners."""
    if centres:
        return F.interpolate(x, (height, width), mode='bilinear', align_corners=False)

    def taps(have: int, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
        # positions in integer arithmetic: rounding cannot move one to the neighbouring pixel
        at = torch.arange(wanted, device=x.device) * have
        low = at // wanted
        return low, (low + 1).clamp(max=have - 1), (at % wanted).float() / wanted

    top, bottom, y = taps(x.shape[2], height)
    left, right, z = taps(x.shape[3], width)
    rows = x[:, :, top] + (x[:, :, bottom] - x[:, :, top]) * y[:, None]
    return rows[..., left] + (rows[..., right] - rows[..., left]) * z


# One operator each, so that each export format can have its own.
bilinear = torch.library.custom_op('mnv2_backbone::bilinear', bilinear_by_torch, mutates_args=())


@bilinear.register_fake
def _(x: Tensor, height: int, width: int, centres: bool) -> Tensor:
    return x.new_empty(*x.shape[:2], height, width)


def resize(images: Tensor, size: Size, sampling: str) -> Tensor:
    """Resizes images (N, H, W, 3), uint8, bilinearly within a graph; the result is float32.

    ``'opencv'`` rounds to integers as there (single values may differ by 1 from its fixed-point arithmetic).
    """
    resized = bilinear(images.permute(0, 3, 1, 2).float(), *size, sampling == 'opencv')
    return (resized.round() if sampling == 'opencv' else resized).permute(0, 2, 3, 1)


@torch.library.custom_op('mnv2_backbone::nms_keeps', mutates_args=())
def nms_keeps(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """NMS of boxes (N, n, 4) with scores (N, n): which of them are kept, (N, n), bool."""
    keeps = torch.zeros_like(scores, dtype=torch.bool)
    for keep, box, score in zip(keeps, boxes, scores):
        keep[torchvision.ops.nms(box, score, iou_threshold)] = True
    return keeps


@nms_keeps.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def conv_same_by_torch(x: Tensor, weight: Tensor, bias: Tensor, stride: int, groups: int) -> Tensor:
    """A convolution with SAME padding, for any size: exchange formats have it as an option."""
    return F.conv2d(SamePadding(weight.shape[2], stride, 1)(x), weight, bias, stride, groups=groups)


conv_same = torch.library.custom_op('mnv2_backbone::conv_same', conv_same_by_torch, mutates_args=())


@conv_same.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, stride: int, groups: int) -> Tensor:
    batch, _, height, width = x.shape
    return x.new_empty(batch, weight.shape[0], (height + stride - 1) // stride, (width + stride - 1) // stride)


class SameConv(nn.Module):
    """A folded convolution that pads as :func:`conv_same`, with a value ``pad_value``."""

    def __init__(self, conv: nn.Conv2d, pad_value: float = 0.0) -> None:
        super().__init__()
        assert conv.bias is not None
        self.pad_value, self.stride, self.groups = pad_value, conv.stride[0], conv.groups
        self.weight = conv.weight
        self.bias = nn.Parameter(conv.bias + pad_value * conv.weight.sum((1, 2, 3)), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        x = x - self.pad_value if self.pad_value else x
        return conv_same(x, self.weight, self.bias, self.stride, self.groups)


def free_padding(segmenter: Segmenter) -> None:
    """Lets the format pad SAME convolutions, so that the graph does not compute padding from sizes; in place."""
    body = segmenter.body
    if body.pad.same:
        body.first.conv, body.pad.same = SameConv(body.first.conv, body.pad.pad_value), None
    for module in segmenter.modules():
        if isinstance(module, ConvNormAct) and isinstance(module.pad, SamePadding) and module.pad.rate == 1:
            module.conv, module.pad = SameConv(module.conv), nn.Identity()


class WholeDetector(nn.Module):
    """A detector for export, with resizing and maybe NMS inside; the network is changed in place."""

    inputs = ('images',)

    def __init__(self, detector: Detector, recipe: Recipe, nms: bool) -> None:
        super().__init__()
        settle_padding(detector, torch.zeros(1, *detector.size, 3))
        self.detector, self.sampling, self.nms = detector, recipe.sampling, nms
        self.test_cfg: Mapping[str, Any] = recipe.test_cfg
        self.outputs = ('boxes', 'scores', 'labels') if nms else ('boxes', 'scores')

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Detects in images (N, H, W, 3), BGR, uint8.

        Returns:
            Without NMS boxes (N, anchors, 4), x1, y1, x2, y2 in pixels of the images, and scores (N, anchors, classes).
            With it boxes (N, n, 4), scores (N, n) and labels (N, n), the highest-scoring first, n being
            ``max_per_img``; the entries after the last detection have score 0.
        """
        height, width = self.detector.size
        logits, codes = self.detector.raw(resize(images, (height, width), self.sampling))
        scores = self.detector.head.scores(logits)
        y, x = images.shape[1] / height, images.shape[2] / width
        ones = torch.ones(2, dtype=torch.float32, device=scores.device)
        scale = torch.cat([ones[:1] * x, ones[:1] * y, ones[:1] * x, ones[:1] * y])
        if not self.nms:
            return self.detector.decode(self.detector.anchors.expand(codes.shape[0], -1, -1), codes) * scale, scores
        # Decoding begins after the choice of candidates.
        classes = scores.shape[2]
        limit = self.test_cfg.get('nms_pre', -1)
        limit = limit if limit > 0 else max(4 * self.test_cfg['max_per_img'], MOST_CANDIDATES)
        most = self.detector.anchors.shape[-2] * classes
        scores, order = scores.flatten(1).topk(min(limit, most), dim=1)
        labels = order % classes
        at = (order // classes)[:, :, None].expand(-1, -1, 4)
        anchors = self.detector.anchors.expand(codes.shape[0], -1, -1)
        boxes = self.detector.decode(anchors.gather(1, at), codes.gather(1, at))
        if (smallest := self.test_cfg.get('min_bbox_size', -1)) >= 0:
            sides = (boxes[..., 2:] - boxes[..., :2]) * scale[2:]
            scores = torch.where((sides > smallest).all(-1), scores, 0.0)
        apart = boxes
        if not self.test_cfg['nms'].get('class_agnostic'):  # boxes of different classes do not suppress each other
            reach = max(height, width) * (1 + 2 * self.detector.head.margin) + 1
            apart = boxes + (labels * reach).to(boxes)[:, :, None]
        keeps = nms_keeps(apart, scores, self.test_cfg['nms']['iou_threshold'])
        scores = torch.where(keeps & (scores > self.test_cfg['score_thr']), scores, 0.0)
        scores, order = scores.topk(min(self.test_cfg['max_per_img'], scores.shape[1]), dim=1)
        boxes = boxes.gather(1, order[:, :, None].expand(-1, -1, 4))
        if self.detector.head.margin:
            boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height] * 2))
        return boxes * scale, scores, labels.gather(1, order)


class WholeSegmenter(nn.Module):
    """A segmenter for export, with resizing inside if the recipe resizes; the network is changed in place."""

    inputs = ('images',)
    outputs = ('labels',)

    def __init__(self, segmenter: Segmenter, recipe: Recipe) -> None:
        super().__init__()
        if recipe.size is None:
            free_padding(segmenter)
        else:
            settle_padding(segmenter, torch.zeros(1, *recipe.size, 3))
        self.segmenter, self.size, self.sampling = segmenter, recipe.size, recipe.sampling

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Images (N, H, W, 3), BGR, uint8, to label maps (N, H, W), uint8."""
        have = images.shape[1:3]
        if self.size is None:
            return (self.segmenter.labels(self.segmenter(images), have),)
        logits = self.segmenter(resize(images, self.size, self.sampling))
        return (self.segmenter.labels(logits, self.size, have),)


def traced(network: nn.Module, sample: Tensor, free: Sequence[int]) -> torch.export.ExportedProgram:
    """Traces a copy of a network of one tensor; the sizes of the axes ``free`` stay open.

    ``sample`` is an input, of more than one in every free axis: the tracer takes a size of one for a constant.
    """
    # channels last in memory only says how PyTorch computes; to the tracer it is a condition on sizes
    network = copy.deepcopy(network).eval()
    network.to(memory_format=torch.contiguous_format)
    with torch.no_grad():
        return torch.export.export(
            network, (sample,), dynamic_shapes=({axis: torch.export.Dim.DYNAMIC for axis in free},)
        )


def without_own_operators(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same graph with PyTorch's operators in place of this package's."""
    own = torch.ops.mnv2_backbone
    ours = {own.conv_same.default: conv_same_by_torch, own.bilinear.default: bilinear_by_torch}
    return program.run_decompositions(ours)


def to_onnx(program: torch.export.ExportedProgram, names: dict[str, Any] | None = None) -> Any:
    """Translates a traced network to an ``onnx.ModelProto``, or takes the translation from the cache.

    Translating takes longer than tracing. Translations are kept by everything that decides them: the graph, the
    weights, the names of inputs and outputs, and the versions of the libraries.
    """
    import onnx

    base = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    folder = base / 'mnv2_backbone/graphs'
    path = folder / f'{_fingerprint(program, names)}.onnx'
    if path.is_file():
        try:
            known = onnx.load(path)
            os.utime(path)
            return known
        except Exception:  # damaged, or not ours to touch: it is translated again
            pass
    translated: Any = torch.onnx.export(
        program,
        (),
        dynamo=True,
        opset_version=18,
        verbose=False,
        custom_translation_table=_translations(),
        **(names or {}),
    )
    model = translated.model_proto
    _tidy(model)
    try:
        with whole_file(path) as draft:
            draft.write_bytes(model.SerializeToString())
        for old in sorted(folder.glob('*.onnx'), key=lambda file: file.stat().st_mtime)[:-_MOST_CACHED]:
            old.unlink(missing_ok=True)
    except OSError as error:  # a full disk, or a folder that cannot be written: only the next time is slower
        print_log(f'the translated graph is not kept for the next time: {error}', 'current', logging.WARNING)
    return model


def _tidy(model: Any) -> None:
    """Names the axes of unknown size, in place, and removes the exporter's notes on the code behind each node."""
    graph = model.graph
    free = [axis.dim_param for axis in graph.input[0].type.tensor_type.shape.dim]
    names = dict(zip(free, ('batch', 'height', 'width')))
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:  # and not a number, which this would replace
                axis.dim_param = names.get(axis.dim_param, axis.dim_param)
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]


def _fingerprint(program: torch.export.ExportedProgram, names: Any) -> str:
    import onnx
    import onnxscript

    versions = [_VERSION, *(module.__version__ for module in (torch, torchvision, onnx, onnxscript))]
    graph = (str(program.graph_module.graph), str(program.graph_signature), str(program.range_constraints))
    inputs = [node.meta['val'] for node in program.graph_module.graph.nodes if node.op == 'placeholder']
    sizes = [(str(x.dtype), str(x.shape)) for x in inputs if isinstance(x, Tensor)]
    digest = hashlib.sha256(repr((versions, names, graph, sizes)).encode())
    for tensors in (program.state_dict, program.constants):
        for name, value in sorted(tensors.items()):
            digest.update(name.encode())
            if isinstance(value, Tensor):
                digest.update(repr((value.dtype, tuple(value.shape))).encode())
                digest.update(value.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _translations() -> dict[Any, Any]:
    """The operators of this package in ONNX."""
    import onnxscript

    op: Any = onnxscript.opset18

    def keeps(boxes: Any, scores: Any, iou_threshold: float) -> Any:
        most = op.Constant(value_int=9223372036854775807)
        found = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, op.Constant(value_ints=[1])), most, iou_threshold)
        where = op.Gather(found, op.Constant(value_ints=[0, 2]), axis=1)
        ones = op.Expand(op.Constant(value_float=1.0), op.Slice(op.Shape(where), [0], [1]))
        return op.Cast(op.ScatterND(op.Sub(scores, scores), where, ones), to=onnxscript.BOOL.dtype)

    def same(x: Any, weight: Any, bias: Any, stride: int, groups: int) -> Any:
        return op.Conv(x, weight, bias, auto_pad='SAME_UPPER', strides=[stride, stride], group=groups)

    def resized(x: Any, height: int, width: int, centres: bool) -> Any:
        size = op.Concat(op.Shape(x, start=0, end=2), op.Constant(value_ints=[height, width]), axis=0)
        mode = 'half_pixel' if centres else 'asymmetric'
        return op.Resize(x, None, None, size, mode='linear', coordinate_transformation_mode=mode)

    own = torch.ops.mnv2_backbone
    return {own.nms_keeps.default: keeps, own.conv_same.default: same, own.bilinear.default: resized}
