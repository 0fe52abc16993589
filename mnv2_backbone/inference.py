"""From a trained model or an exported file to results on pictures and videos, for detectors and segmenters."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import BaseModel
from mmengine.registry import VISUALIZERS, init_default_scope

from .deployment.model import ExportedModel
from .deployment.trained import load_trained
from .errors import UserError
from .masks import save_indexed_png

PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')


@dataclass(frozen=True)
class Source:
    """A picture or video file.

    Attributes:
        path: The file.
        name: Where its results go below the output folder, without a suffix.
    """

    path: Path
    name: Path

    @property
    def is_video(self) -> bool:
        """Whether it is a video, by its suffix."""
        return self.path.suffix.lower() in VIDEOS


def find_sources(what: str) -> list[Source]:
    """The files that a picture's name, a folder, a pattern or a video's name stands for.

    Args:
        what: Folders are searched through, patterns are those of :mod:`glob` with ``**``.

    Returns:
        The files in order of their names.

    Raises:
        UserError: There is nothing, or nothing that is a picture or a video.
    """
    root = Path(what)
    if root.is_dir():
        base, paths = root, sorted(root.rglob('*'))
    else:
        paths = [root] if root.is_file() else [Path(path) for path in sorted(glob.glob(what, recursive=True))]
        base = Path(os.path.commonpath([path.parent for path in paths])) if paths else root
    found = [path for path in paths if path.suffix.lower() in PICTURES + VIDEOS and path.is_file()]
    if not found:
        reason = 'has no pictures or videos' if paths else 'does not exist and matches no file'
        raise UserError(f'{what}: {reason}; known are {" ".join(PICTURES + VIDEOS)}')
    stems = [path.relative_to(base).with_suffix('') for path in found]
    # a.jpg and a.png must not overwrite each other's results
    return [
        Source(path, stem if stems.count(stem) == 1 else stem.with_name(path.name.replace('.', '_')))
        for path, stem in zip(found, stems)
    ]


class Predictor:
    """A trained model with its test pipeline and its way of drawing.

    Args:
        model: mm's model, which takes batches of the pipeline's results.
        meta: ``classes`` and ``palette``.
        steps: The test pipeline, which begins with loading a picture.
        visualizer: Config of mm's visualizer.
    """

    def __init__(
        self,
        model: BaseModel,
        meta: Mapping[str, Any],
        steps: Sequence[Mapping[str, Any]],
        visualizer: Mapping[str, Any],
    ) -> None:
        self.model, self.meta = model, meta
        self.pipeline = Compose([step for step in steps[1:] if 'LoadAnnotations' not in step['type']])
        self.visualizer = VISUALIZERS.build(dict(visualizer, vis_backends=None))
        self.visualizer.dataset_meta = meta

    @classmethod
    def from_checkpoint(cls, cfg: Config, weights: str, device: str = 'cpu') -> Predictor:
        """The model of a config.

        Args:
            cfg: A detection or segmentation config.
            weights: A checkpoint's path or ``mnv2://`` name; it must fit the model as a whole.
            device: ``'cpu'``, ``'cuda:0'`` ...

        Raises:
            UserError: The weights do not fit, or the device is not there.
        """
        model, meta = load_trained(cfg, weights)
        try:
            model = model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f'--device {device}: {error}') from error
        return cls(model, meta, cfg.test_dataloader.dataset.pipeline, cfg.visualizer)

    @classmethod
    def from_exported(cls, path: str) -> Predictor:
        """A file that ``tools/export.py`` wrote; it needs no config.

        Args:
            path: The file.

        Raises:
            UserError: It cannot be loaded.
        """
        model = ExportedModel(path)
        recipe = model.exported.recipe
        scope, kind = ('mmdet', 'Det') if recipe.task == 'detect' else ('mmseg', 'Seg')
        init_default_scope(scope)
        steps = [dict(type='LoadImageFromFile'), dict(type=f'Pack{kind}Inputs')]
        meta = dict(classes=recipe.classes, palette=list(recipe.palette))
        return cls(model, meta, steps, dict(type=f'{kind}LocalVisualizer', name='visualizer'))

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Any:
        """Runs the model on one picture.

        Args:
            image: (height, width, 3), BGR, 0 to 255.

        Returns:
            mm's data sample, with ``pred_instances`` or ``pred_sem_seg``.
        """
        size = image.shape[:2]
        data = self.pipeline(dict(img=image, img_path='', img_id=0, img_shape=size, ori_shape=size))
        batch = dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
        return self.model.test_step(batch)[0]

    def draw(self, image: np.ndarray, sample: Any, score_thr: float) -> np.ndarray:
        """The picture with its result drawn in, BGR as it came."""
        options: dict[str, Any] = {} if 'pred_sem_seg' in sample else dict(pred_score_thr=score_thr)
        self.visualizer.add_datasample(
            'result', np.ascontiguousarray(image[..., ::-1]), sample.cpu(), draw_gt=False, **options
        )
        drawn: np.ndarray = self.visualizer.get_image()
        return np.ascontiguousarray(drawn[..., ::-1])

    def describe(self, sample: Any, score_thr: float) -> dict[str, Any]:
        """A result as plain data.

        Returns:
            ``objects``: label, score and box (x1, y1, x2, y2 in pixels) of each, the surest first; or
            ``classes``: the share of the picture that each takes.
        """
        names = self.meta['classes']
        if 'pred_sem_seg' in sample:
            labels = sample.pred_sem_seg.data
            shares = torch.bincount(labels.flatten(), minlength=len(names)) / labels.numel()
            return dict(classes={names[i]: round(x, 4) for i, x in enumerate(shares.tolist()) if x > 0})
        found = sample.pred_instances
        return dict(
            objects=[
                dict(label=names[label], score=round(score, 4), box=[round(x, 1) for x in box])
                for label, score, box in zip(
                    found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist()
                )
                if score >= score_thr
            ]
        )


def predict_picture(predictor: Predictor, source: Source, out: Path, score_thr: float) -> dict[str, Any]:
    """Writes the drawn picture, the result as JSON, and a segmenter's label map as an indexed PNG.

    Raises:
        UserError: The picture cannot be read.
    """
    image = cv2.imread(str(source.path))
    if image is None:
        raise UserError(f'{source.path} is not a picture that can be read')
    sample = predictor(image)
    result = dict(file=str(source.path), height=image.shape[0], width=image.shape[1])
    result.update(predictor.describe(sample, score_thr))
    target = out / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(f'{target}.jpg', predictor.draw(image, sample, score_thr))
    if 'pred_sem_seg' in sample:
        labels = sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8)
        save_indexed_png(f'{target}.png', labels, predictor.meta['palette'])
    _write_json(Path(f'{target}.json'), result)
    return result


def predict_video(predictor: Predictor, source: Source, out: Path, score_thr: float) -> Iterator[int]:
    """Writes the video with results drawn in (.mp4) and the results of its frames as JSON.

    Yields:
        The number of frames that the file announces, once for each frame done.

    Raises:
        UserError: The video cannot be read.
    """
    video = cv2.VideoCapture(str(source.path))
    total = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    rate = video.get(cv2.CAP_PROP_FPS) or 25.0
    target = out / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    frames: list[dict[str, Any]] = []
    writer = None
    try:
        while True:
            going, image = video.read()
            if not going:
                break
            if writer is None:
                size = (image.shape[1], image.shape[0])
                fourcc = cv2.VideoWriter.fourcc(*'mp4v')
                writer = cv2.VideoWriter(f'{target}.mp4', fourcc, rate, size)
            sample = predictor(image)
            writer.write(predictor.draw(image, sample, score_thr))
            frames.append(dict(frame=len(frames), **predictor.describe(sample, score_thr)))
            yield total
    finally:
        video.release()
        if writer is not None:
            writer.release()
    if not frames:
        raise UserError(f'{source.path} is not a video that can be read')
    _write_json(Path(f'{target}.json'), dict(file=str(source.path), fps=rate, frames=frames))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    draft = path.with_name(f'.{path.name}.{os.getpid()}')
    draft.write_text(json.dumps(content, indent=1) + '\n')
    draft.replace(path)
