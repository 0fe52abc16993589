"""A trained model in its fastest form within this process."""

import copy
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor, nn

from ..errors import UserError
from ..network.backbone import MobileNetV2
from .backends import Backend, Run, choose_engine
from .folding import fold_norms, settle_padding
from .graph import traced
from .network import Detector, Segmenter, check_deployable, in_bfloat16
from .predictor import Predictor
from .recipe import Manifest, Recipe, Size


def run_with(backend: Backend, network: nn.Module, sample: Tensor, precision: str = 'fp32') -> Callable[..., Any]:
    """Prepares a network, from one tensor to a tensor or a tuple, for inputs like ``sample`` in batches of any size.

    The parameters of the network must stay as they are from now on.
    """
    if precision == 'bf16' and backend.name in ('inductor', 'eager'):
        network = in_bfloat16(copy.deepcopy(network))
    if backend.name == 'eager':
        return network
    with torch.no_grad():
        single = isinstance(network(sample), Tensor)
    graph = backend.convert(traced(network, sample.expand(2, *sample.shape[1:]).clone(), free=[0]))
    try:
        run = _load(backend, graph, precision)
    except UserError as error:
        print_log(f'not compiled, only folded: {error}', 'current', logging.WARNING)
        return network

    def run_on_tensors(x: Tensor) -> Any:
        outputs = [torch.from_numpy(y) for y in run(x.to(sample.dtype).contiguous().numpy())]
        return outputs[0] if single else tuple(outputs)

    return run_on_tensors


def _load(backend: Backend, graph: Any, precision: str) -> Run:
    """Loads a graph; TorchInductor loads files only."""
    if backend.name != 'inductor':
        return backend.load(graph, precision, torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f'network{backend.suffix}')
        backend.write(graph, path, '{}')
        return backend.load(path, precision, None)


class OneSize(nn.Module):
    """A network optimized for inputs of the size of ``sample``; other sizes run in PyTorch, with the same results."""

    def __init__(self, network: nn.Module, sample: Tensor, backend: Backend, precision: str = 'fp32') -> None:
        super().__init__()
        self.network = in_bfloat16(copy.deepcopy(network)) if precision == 'bf16' else network
        self.shape = tuple(sample.shape[1:])
        settled = copy.deepcopy(network)
        settle_padding(settled, sample)
        self.fast = run_with(backend, settled, sample, precision)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        """The output of the network."""
        return (self.fast if tuple(x.shape[1:]) == self.shape else self.network)(x)


@dataclass
class DeployedDetector:
    """Runs a detector on images, resized before the network as in the test pipeline.

    A graph cannot repeat OpenCV's rounding: resizing inside it, as exported files do, moves scores by up to 0.02.
    """

    network: Callable[..., Any]
    recipe: Recipe

    @torch.no_grad()
    def __call__(self, images: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Boxes (anchors, 4) in the pixels of each image, and scores (anchors, classes)."""
        if not images:
            return []
        assert self.recipe.size is not None
        height, width = self.recipe.size
        boxes, scores = self.network(torch.from_numpy(np.stack([self.recipe.resize(image) for image in images])))
        scales = [np.array((image.shape[1] / width, image.shape[0] / height) * 2, np.float32) for image in images]
        return [(box.numpy() * scale, score.numpy()) for box, score, scale in zip(boxes, scores, scales)]


@dataclass
class DeployedSegmenter:
    """Runs a segmenter on images; ``network`` is its fast form, from images in float32 to logits."""

    network: nn.Module
    segmenter: Segmenter
    recipe: Recipe

    def padded(self, image: np.ndarray) -> np.ndarray:
        """An image in float32, padded with the mean as the network would pad it, to the size optimized for."""
        size = [max(have, min_size) for have, min_size in zip(image.shape[:2], self.segmenter.min_size)]
        mean = (self.segmenter.body.pad.pad_value + self.segmenter.body.shift).flatten().numpy()
        full = np.full((*size, 3), mean, np.float32)
        full[: image.shape[0], : image.shape[1]] = image
        return full

    @torch.no_grad()
    def __call__(self, images: Sequence[np.ndarray]) -> list[tuple[np.ndarray]]:
        """The label map (H, W), uint8, of each image."""
        results = []
        for image in images:
            resized = self.recipe.resize(image)
            original = image.shape[:2] if self.recipe.size else None
            # With the classes of a pixel side by side, enlarging and comparing them takes a third of the time.
            logits = self.network(torch.from_numpy(self.padded(resized))[None])
            logits = logits.contiguous(memory_format=torch.channels_last)
            results.append((self.segmenter.labels(logits, resized.shape[:2], original)[0].numpy(),))
        return results


def deploy(
    model: nn.Module,
    cfg: Config | None = None,
    *,
    size: Size | None = None,
    precision: str = 'fp32',
    engine: str = 'auto',
) -> Any:
    """Turns a trained model into its fastest form within this process, for CPUs.

    Batch norms and the input's normalization are folded into the convolutions, TensorFlow's uneven padding becomes the
    convolutions' own, and the network is run by ONNX Runtime or OpenVINO if they are installed, or else compiled if
    there is a C++ compiler. The model itself stays as it is; outputs in float32 are within 1e-4 of its.

    Args:
        model: :class:`mnv2_backbone.MobileNetV2`, or an ``SSDLite`` or ``DeepLab`` of this package.
        cfg: The config of a detector or segmenter; by default ``model.cfg``, which ``init_detector`` and ``init_model``
            set.
        size: (height, width) of the network's input; by default that of the config's test pipeline. A bare backbone
            needs it. Backbones and segmenters take inputs of other sizes too, but run them slower, unless the
            segmenter's data preprocessor pads them to this size.
        precision: ``'fp32'``, or ``'bf16'`` for processors that multiply bfloat16; inputs and outputs stay the same.
        engine: ``'onnxruntime'`` (float32 only), ``'openvino'``, ``'inductor'``, ``'eager'``, or ``'auto'`` for the
            first of them that is installed; in bfloat16 the first is OpenVINO.

    Returns:
        For a backbone a module with the same inputs and outputs; otherwise a
        :class:`mnv2_backbone.deployment.predictor.Predictor`, which is called with images.

    Raises:
        ValueError: The model or an option cannot be deployed; the message says why.
    """
    backend = choose_engine(engine, precision)
    if isinstance(model, MobileNetV2):
        if size is None:
            raise ValueError('size: a bare backbone needs the (height, width) to optimize for')
        channels = model.plan.layers[0].in_channels
        return OneSize(fold_norms(model), torch.zeros(1, channels, *size), backend, precision)
    check_deployable(model)
    cfg = cfg or getattr(model, 'cfg', None)
    if cfg is None:
        raise ValueError('cfg: the model has no cfg of its own, pass the config it was built from')
    recipe = Recipe.from_config(cfg)
    if recipe.task == 'segment':
        recipe = replace(recipe, size=size) if size and recipe.size else recipe
        segmenter = Segmenter(model)
        fast = [max(pair) for pair in zip(size or recipe.size or (0, 0), segmenter.min_size)]
        if 0 in fast:
            raise ValueError('size: the config has no fixed input size, pass the (height, width) to optimize for')
        network = OneSize(segmenter, torch.zeros(1, *fast, 3), backend, precision)
        return Predictor(DeployedSegmenter(network, segmenter, recipe), Manifest(recipe, precision))
    size = size or recipe.size
    if size is None:
        raise ValueError('size: the config has no fixed input size, pass the (height, width) to optimize for')
    recipe = replace(recipe, size=size)
    detector = Detector(model, size)
    dtype = torch.uint8 if recipe.sampling == 'opencv' else torch.float32
    sample = torch.zeros(1, *size, 3, dtype=dtype)
    settle_padding(detector, sample)
    run = DeployedDetector(run_with(backend, detector, sample, precision), recipe)
    return Predictor(run, Manifest(recipe, precision))
