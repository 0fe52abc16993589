"""From images to results: one class for deployed models, exported files and trained models."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.ops import batched_nms
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import BaseModel
from mmengine.structures import InstanceData, PixelData
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from ..configs import type_name
from ..errors import UserError
from ..network.single_shot import numbers_for_nms
from ..operators import nms as plain_nms
from ..registry import MODELS
from .backends import Run, explain, open_exported
from .network import load_trained
from .raw import RunRaw
from .recipe import Manifest, Recipe, classes_and_palette, padding_of, test_pipeline

#: From images (H, W, 3), BGR, uint8, to the outputs of each: boxes in its pixels, scores and maybe labels; or labels.
RunImages = Callable[[Sequence[np.ndarray]], Iterable[Sequence[np.ndarray]]]


class Predictor:
    """Detects or segments; ``run`` computes a detector's boxes and scores before NMS, or with labels after it."""

    def __init__(self, run: RunImages, manifest: Manifest) -> None:
        self.run, self.manifest = run, manifest

    @property
    def recipe(self) -> Recipe:
        """Task, classes, palette, size, sampling, thresholds."""
        return self.manifest.recipe

    @property
    def resizes(self) -> bool:
        """Whether the network sees images at a size of its own, whatever theirs is."""
        return self.recipe.size is not None or getattr(self.run, 'resizes', False)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], threads: int | None = None) -> 'Predictor':
        """Loads a file (.onnx, .xml, .pt2, .tflite or .param) that ``mnv2 export`` wrote; it needs no config.

        A .pt2 file holds machine code: run files of your own only. ``threads``: the runtime's default if None.

        Raises:
            UserError: The file is missing, damaged, not exported by this package, or its runtime is not installed.
        """
        path = Path(path)
        backend, text = open_exported(path)
        manifest = explain(path, backend, lambda: Manifest.from_json(text))
        run: Run = explain(path, backend, lambda: backend.load(path, manifest.precision, threads))
        return cls(RunRaw(manifest, run) if backend.raw else _InBatches(run), manifest)

    @classmethod
    def from_checkpoint(cls, cfg: Config, weights: str, device: str = 'cpu') -> 'Predictor':
        """Loads the trained model of a config, which runs as mm's own inferencers run it.

        ``weights`` is a checkpoint's path or an ``mnv2://`` name; it must fit the model as a whole.
        """
        model, meta = load_trained(cfg, weights)
        try:
            model = model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f'--device {device}: {error}') from error
        load, *steps = test_pipeline(cfg)
        if (colour := load.get('color_type', 'color')) != 'color':
            raise UserError(f"the test pipeline has color_type={colour!r}: images are read with 'color' here")
        steps = [step for step in steps if 'LoadAnnotations' not in type_name(step)]
        task = 'segment' if hasattr(model, 'decode_head') else 'detect'
        recipe = Recipe(task, *classes_and_palette(meta), size=None, test_cfg=padding_of(cfg))
        return cls(_Trained(model, steps), Manifest(recipe))

    def __call__(self, images: Sequence[np.ndarray]) -> list[Any]:
        """Detects or segments.

        Args:
            images: (H, W, 3) each, BGR, uint8, of any size.

        Returns:
            For each image, of a detector :class:`InstanceData` with ``bboxes`` (n, 4) in its pixels, ``scores`` (n,)
            and ``labels`` (n,), of a segmenter its label map (H, W), integers.

        Raises:
            ValueError: An image has another shape or type.
        """
        for i, image in enumerate(images):
            shape, dtype = np.shape(image), getattr(image, 'dtype', type(image).__name__)
            if dtype != np.uint8 or len(shape) != 3 or 0 in shape or shape[2] != 3:
                raise ValueError(f'image {i} has the shape {shape} and type {dtype}: must be (H, W, 3), uint8, BGR')
        if self.recipe.task == 'segment':
            return [labels for (labels,) in self.run(images)]
        outputs = [map(torch.from_numpy, arrays) for arrays in self.run(images)]
        return [self._found(image.shape, *tensors) for image, tensors in zip(images, outputs)]

    def _found(self, shape: Sequence[int], boxes: Tensor, scores: Tensor, labels: Tensor | None = None) -> InstanceData:
        if labels is None:
            found = suppress(boxes, scores, self.recipe.test_cfg, getattr(self.run, 'logits', False))
            found.bboxes = clip_boxes_to_image(found.bboxes, (shape[0], shape[1]))
            return found
        real = scores > 0  # the rest is padding
        return InstanceData(bboxes=boxes[real], scores=scores[real], labels=labels[real])


@MODELS.register_module()
class ExportedModel(BaseModel):
    """Runs a file that ``mnv2 export`` wrote on the images of a data loader, as they were loaded."""

    def __init__(self, path: str, threads: int | None = None) -> None:
        super().__init__()
        self.predictor = Predictor.from_file(path, threads)

    def forward(self, inputs: Sequence[Tensor], data_samples: Sequence[Any], mode: str = 'predict') -> list[Any]:
        """Detects or segments in images (3, H, W), BGR, uint8, of any size.

        Returns:
            The samples, with ``pred_instances`` or ``pred_sem_seg``.

        Raises:
            ValueError: Another mode than ``'predict'``: an exported file does not train.
        """
        if mode != 'predict':
            raise ValueError(f"mode={mode!r}: an exported file allows 'predict' only")
        results = self.predictor([x.permute(1, 2, 0).cpu().numpy() for x in inputs])
        for sample, result in zip(data_samples, results):
            if self.predictor.recipe.task == 'detect':
                sample.pred_instances = result
            else:
                sample.pred_sem_seg = PixelData(data=torch.from_numpy(result)[None].long())
        return list(data_samples)


class _InBatches:
    """Runs an exported file; images of one size form one batch."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, images: Sequence[np.ndarray]) -> list[Sequence[np.ndarray]]:
        if len({image.shape for image in images}) > 1:
            return [outputs for image in images for outputs in self([image])]
        # np.stack keeps the order in memory, and TorchInductor's packages do not look at it
        return list(zip(*self.run(np.ascontiguousarray(np.stack(images))))) if images else []


class _Trained:
    """A trained model with its test pipeline, one image at a time."""

    def __init__(self, model: Any, steps: Sequence[Any]) -> None:
        self.model, self.pipeline = model, Compose(list(steps))
        self.resizes = any('Resize' in type_name(step) for step in steps)

    @torch.no_grad()
    def __call__(self, images: Sequence[np.ndarray]) -> list[Sequence[np.ndarray]]:
        results: list[Sequence[np.ndarray]] = []
        for image in images:
            size = image.shape[:2]
            data = self.pipeline(dict(img=image, img_path='', img_id=0, img_shape=size, ori_shape=size))
            batch = dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
            sample = self.model.test_step(batch)[0].cpu()
            if 'pred_sem_seg' in sample:
                results.append((sample.pred_sem_seg.data[0].numpy(),))
            else:
                found = sample.pred_instances
                results.append(tuple(x.numpy() for x in (found.bboxes, found.scores, found.labels)))
        return results


def suppress(boxes: Tensor, scores: Tensor, cfg: Mapping[str, Any], logits: bool = False) -> InstanceData:
    """Applies score threshold and NMS to boxes (anchors, 4) with scores (anchors, classes), as the trained model does.

    With ``logits`` the scores are taken before the sigmoid.

    Returns:
        ``bboxes`` (n, 4), ``scores`` (n,), ``labels`` (n,), the highest-scoring first.
    """
    # NumPy, which has one thread, does what is large. PyTorch's other threads, once woken, would spin for milliseconds
    # and take the cores from the runtime that computes the next image: that costs more than everything else here.
    corners, every = boxes.numpy(), scores.numpy().reshape(-1)
    threshold = cfg['score_thr']
    if logits:
        threshold = math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else math.inf * (threshold - 0.5)
    places = np.flatnonzero(every > threshold)
    values = every[places]
    if logits:
        values = 1 / (1 + np.exp(-values))
    limit = cfg.get('nms_pre', -1)
    count = min(limit if limit > 0 else len(values), len(values))
    if (smallest := cfg.get('min_bbox_size', -1)) >= 0:
        best = _highest(values, count)
        at = places[best] // scores.shape[1]
        best = best[(corners[at, 2:] - corners[at, :2] > smallest).all(1)]
        values, places, count = values[best], places[best], len(best)
    if not count:
        return InstanceData(bboxes=boxes[:0], scores=scores[:0, 0], labels=torch.from_numpy(places[:0]))
    wanted, nms = cfg['max_per_img'], dict(cfg['nms'])
    if nms.get('class_agnostic'):  # beyond split_thr boxes mmcv would forget it
        nms['split_thr'] = count + 1
    lowest = min(float(corners.min()), 0.0)
    for taken in numbers_for_nms(count, cfg):
        best = _highest(values, taken)
        at, labels = np.divmod(places[best], scores.shape[1])
        top = torch.from_numpy(values[best])
        found, keep = _survivors(corners[at] - lowest, top, labels, nms)
        if len(keep) >= wanted:
            break
    found, keep = found[:wanted], keep[:wanted]
    return InstanceData(bboxes=found[:, :4] + lowest, scores=found[:, 4], labels=torch.from_numpy(labels)[keep])


def _survivors(boxes: np.ndarray, scores: Tensor, labels: np.ndarray, nms: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The boxes with scores (k, 5) that NMS keeps, and where they are; coordinates are not negative."""
    if nms.get('type', 'nms') != 'nms' or not set(nms) <= {'type', 'iou_threshold'}:
        return batched_nms(torch.from_numpy(boxes), scores, torch.from_numpy(labels), nms)
    # The same without mmcv's steps around the operator, which take longer than the operator. Moved far from each other,
    # boxes of different classes do not overlap.
    apart = boxes + (labels * (boxes.max() + 1)).astype(np.float32)[:, None]
    keep = plain_nms(torch.from_numpy(apart), scores, nms['iou_threshold'], 0)
    return torch.cat([torch.from_numpy(boxes)[keep], scores[keep, None]], 1), keep


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """Where the ``count`` highest values are, the highest first; of equal ones, of which int8 has many, the first."""
    enough = np.flatnonzero(values >= np.partition(values, -count)[-count]) if count else np.arange(0)
    order: np.ndarray = enough[np.argsort(-values[enough], kind='stable')[:count]]
    return order
