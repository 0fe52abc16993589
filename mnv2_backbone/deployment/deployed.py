"""A trained model in its fastest form within this process."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..backbone import MobileNetV2
from .engines import choose_engine, run_with
from .fold import fold_norms, settle_padding
from .network import Detector, Segmenter
from .postprocess import thin_out
from .recipe import Recipe

Size = tuple[int, int]


class OneSize(nn.Module):
    """A network that is fast on inputs of one size and right on all.

    Args:
        network: Takes any size.
        sample: An input of the size to be fast on.
        engine: What runs it on that size; see :func:`mnv2_backbone.deployment.engines.run_with`.
        precision: ``'fp32'`` or ``'bf16'``.
    """

    def __init__(self, network: nn.Module, sample: Tensor, engine: str = 'auto', precision: str = 'fp32') -> None:
        super().__init__()
        self.network = run_with('eager', network, sample, precision)
        self.shape = tuple(sample.shape[1:])
        settled = copy.deepcopy(network)
        settle_padding(settled, sample)
        self.fast = run_with(engine, settled, sample, precision)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        """What the network returns."""
        return (self.fast if tuple(x.shape[1:]) == self.shape else self.network)(x)


class DeployedDetector:
    """A detector from pictures to boxes; see :func:`deploy`.

    Args:
        network: For pictures of ``recipe.size``.
        recipe: How pictures are resized and boxes thinned out.
    """

    def __init__(self, network: Callable[..., Any], recipe: Recipe) -> None:
        self.network, self.recipe = network, recipe

    @torch.no_grad()
    def __call__(self, pictures: Sequence[np.ndarray]) -> list[InstanceData]:
        """Detects.

        Args:
            pictures: (H, W, 3) each, BGR, bytes, of any size.

        Returns:
            For each picture ``bboxes`` (n, 4) in its pixels, ``scores`` (n,) and ``labels`` (n,).
        """
        assert self.recipe.size is not None
        height, width = self.recipe.size
        boxes, scores = self.network(torch.from_numpy(np.stack([self.recipe.resize(x) for x in pictures])))
        results = []
        for picture, box, score in zip(pictures, boxes, scores):
            found = thin_out(box, score, self.recipe.test_cfg)
            y, x = picture.shape[0] / height, picture.shape[1] / width
            found.bboxes = found.bboxes * found.bboxes.new_tensor((x, y, x, y))
            results.append(found)
        return results


class DeployedSegmenter:
    """A segmenter from pictures to label maps; see :func:`deploy`.

    Args:
        network: From pictures, float32, to logits.
        segmenter: What ``network`` is made from: how pictures are padded, and how logits become label maps.
        recipe: How pictures are resized.
    """

    def __init__(self, network: nn.Module, segmenter: Segmenter, recipe: Recipe) -> None:
        self.network, self.labels, self.recipe = network, segmenter.labels, recipe
        self.least = segmenter.least
        self.mean = (segmenter.body.level + segmenter.body.shift).flatten().numpy()

    def padded(self, picture: np.ndarray) -> np.ndarray:
        """A picture in float32, padded with the mean as the network would: all that are smaller get its fast size."""
        height, width = (max(have, least) for have, least in zip(picture.shape[:2], self.least))
        full = np.empty((height, width, 3), np.float32)
        full[:] = self.mean
        full[: picture.shape[0], : picture.shape[1]] = picture
        return full

    @torch.no_grad()
    def __call__(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Segments.

        Args:
            pictures: (H, W, 3) each, BGR, bytes, of any size.

        Returns:
            For each picture its label map (H, W), bytes.
        """
        results = []
        for picture in pictures:
            resized = self.recipe.resize(picture)
            original = picture.shape[:2] if self.recipe.size else None
            # With the classes of a pixel side by side, enlarging and comparing them takes a third of the time.
            logits = self.network(torch.from_numpy(self.padded(resized))[None])
            logits = logits.contiguous(memory_format=torch.channels_last)
            results.append(self.labels(logits, resized.shape[:2], original)[0].numpy())
        return results


def deploy(
    model: nn.Module,
    cfg: Config | None = None,
    *,
    size: Size | None = None,
    precision: str = 'fp32',
    engine: str = 'auto',
) -> nn.Module | DeployedDetector | DeployedSegmenter:
    """Turns a trained model into its fastest form within this process, for CPUs.

    Batch norms and the input's normalisation are folded into the convolutions, TensorFlow's uneven padding becomes the
    convolutions' own, the memory format is channels last, and the network is run by ONNX Runtime or OpenVINO where they
    are installed, or else compiled where there is a C++ compiler. The model itself stays as it is; outputs in float32
    are within 1e-4 of its.

    Args:
        model: :class:`mnv2_backbone.MobileNetV2`, or an ``SSDLite`` or ``DeepLab`` of this package.
        cfg: The config of a detector or segmenter; by default ``model.cfg``, which ``init_detector`` and
            ``init_model`` set.
        size: (height, width) of the network's input; that of the config's test pipeline by default. For a bare
            backbone it has to be given. Inputs of other sizes work too for backbones and segmenters, but slower,
            except where the segmenter's data preprocessor pads them to this size.
        precision: ``'fp32'``, or ``'bf16'`` where the processor multiplies bfloat16; what goes in and comes out stays
            as it is.
        engine: ``'onnxruntime'`` (float32 only), ``'openvino'``, ``'inductor'``, ``'eager'``, or ``'auto'`` for the
            first of them that is at hand; in bfloat16 that is OpenVINO.

    Returns:
        For a backbone a module that takes what it takes; else a :class:`DeployedDetector` or
        :class:`DeployedSegmenter`, called with pictures.

    Raises:
        ValueError: The model or an option cannot be deployed; the message says why.

    Examples:
        >>> from mmdet.apis import init_detector
        >>> detect = deploy(init_detector('configs/ssdlite_mnv2_coco_tf.py', 'mnv2://ssdlite-coco', device='cpu'))
        >>> detect([picture])[0].bboxes
    """
    engine = choose_engine(engine, precision)
    if isinstance(model, MobileNetV2):
        if size is None:
            raise ValueError('size: a bare backbone needs the (height, width) to be fast on')
        return OneSize(fold_norms(model), torch.zeros(1, 3, *size), engine, precision)
    cfg = cfg or getattr(model, 'cfg', None)
    if cfg is None:
        raise ValueError('cfg: the model has no cfg of its own, give the config it was built from')
    recipe = Recipe.from_config(cfg)
    if recipe.task == 'segment':
        segmenter = Segmenter(model)
        fast = [max(pair) for pair in zip(size or recipe.size or (0, 0), segmenter.least)]
        if 0 in fast:
            raise ValueError('size: the config neither resizes nor pads to a fixed size, give the one to be fast on')
        return DeployedSegmenter(OneSize(segmenter, torch.zeros(1, *fast, 3), engine, precision), segmenter, recipe)
    size = size or recipe.size
    if size is None:
        raise ValueError('size: the test pipeline does not resize to a fixed size, give the one to be fast on')
    recipe = replace(recipe, size=size)
    detector = Detector(model, size)
    dtype = torch.uint8 if recipe.sampling == 'opencv' else torch.float32
    sample = torch.zeros(1, *size, 3, dtype=dtype)
    settle_padding(detector, sample)
    return DeployedDetector(run_with(engine, detector, sample, precision), recipe)
