"""Image and video files: found by their names, predicted on, drawn, and described in JSON."""

import glob
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mnv2_backbone.data.files import IMAGES, files_below
from mnv2_backbone.errors import UserError, listing, whole_file

#: How the files of results end.
RESULTS = ('.jpg', '.png', '.json', '.mp4')
#: The longer side of what is drawn on, and of what a segmenter of unknown training is thought to be made for.
MOST_DRAWN, MAX_SIZE = 1280, 1024
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')


@dataclass(frozen=True)
class Source:
    """An image or video file, and where its results go inside the output folder, without a suffix."""

    path: Path
    name: Path

    def results(self, out: Path) -> list[str]:
        """The full paths that its results in a folder may have."""
        return [os.path.abspath(f'{out / self.name}{suffix}') for suffix in RESULTS]

    @property
    def is_video(self) -> bool:
        """Whether it is a video, by its suffix."""
        return self.path.suffix.lower() in VIDEOS


def find_sources(whats: Sequence[str], out: Path) -> list[Source]:
    """The images and videos that files, folders (searched recursively) and :mod:`glob` patterns stand for.

    Raises:
        UserError: One of them stands for nothing, or a result in the folder ``out`` could replace a source.
    """
    bases, found = [], {}
    for what in whats:
        root = Path(what)
        pattern = glob.escape(what) if root.is_file() else what  # a name may have brackets
        paths = files_below(root) if root.is_dir() else sorted(map(Path, glob.glob(pattern, recursive=True)))
        bases += [root] if root.is_dir() else [path.parent for path in paths]
        known = {os.path.abspath(p): p for p in paths if p.suffix.lower() in IMAGES + VIDEOS and not p.is_dir()}
        if not known:
            reason = 'has no images or videos' if paths else 'does not exist and matches no file'
            raise UserError(f'{what}: {reason}; known are {" ".join(IMAGES + VIDEOS)}')
        found.update(known)
        others = [path.name for path in paths if not path.is_dir() and os.path.abspath(path) not in known]
        if others:
            print(f'{what}: {len(others)} files are no images or videos: {listing(others, 3)}', file=sys.stderr)
    base = os.path.commonpath(map(os.path.abspath, bases))
    names = {path: Path(full).relative_to(base) for full, path in found.items()}
    stems = {name.with_suffix('') for name in names.values()}
    # a.jpg and a.png must not overwrite each other's results
    unique = len(stems) == len(names)
    sources = [Source(path, name.with_suffix('') if unique else name) for path, name in names.items()]
    if taken := [path for source in sources for path in source.results(out) if path in found]:
        raise UserError(f'--out-dir {out}: {taken[0]} could be overwritten by results; name another folder')
    beside = [x.path for x in sources if os.path.abspath(x.path.parent) == os.path.abspath((out / x.name).parent)]
    if beside:  # where labels may have the names of results
        raise UserError(f'--out-dir {out}: results would lie beside {beside[0]}; name another folder')
    return sources


def reduced(image: np.ndarray, most: int) -> np.ndarray:
    """An image whose longer side has at most this many pixels."""
    scale = most / max(image.shape[:2])
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return image if scale >= 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def write_coco(path: Path, results: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
    """Writes what was detected in images, as :meth:`FilePredictor.predict_image` returns it, as a COCO file.

    Each annotation has a ``score`` too, so that the list of them is COCO's format of results.
    """
    images = [dict(id=i, file_name=x['file'], height=x['height'], width=x['width']) for i, x in enumerate(results, 1)]
    boxes: list[dict[str, Any]] = []
    for number, result in enumerate(results, start=1):
        for found in result['objects']:
            left, top, right, bottom = found['box']
            box = [left, top, round(right - left, 1), round(bottom - top, 1)]
            ids = dict(id=len(boxes) + 1, image_id=number, category_id=classes.index(found['label']) + 1)
            boxes.append(dict(ids, bbox=box, area=round(box[2] * box[3], 2), iscrowd=0, score=found['score']))
    categories = [dict(id=i, name=name) for i, name in enumerate(classes, start=1)]
    with whole_file(path) as draft:
        draft.write_text(json.dumps(dict(images=images, annotations=boxes, categories=categories)))


class FilePredictor:
    """Predicts on files, and writes the results to a folder; objects with a score below ``score_thr`` are left out.

    Segmenters that take images of any size get larger ones than ``max_size`` reduced to that on the longer side. The
    default is a quarter more than the size of the images they were trained on, if that is known.
    ``visualizer`` is the config of mm's visualizer, by default the one of the task.
    """

    def __init__(
        self,
        predictor: Any,
        out: Path,
        score_thr: float,
        max_size: int | None = None,
        visualizer: Mapping[str, Any] | None = None,
    ) -> None:
        from mmengine.registry import VISUALIZERS, init_default_scope

        from mnv2_backbone.data.images import LoadImage

        warnings.filterwarnings('ignore', 'Warning: The .* is out of bounds')  # boxes end at the edge
        self.load = LoadImage(imdecode_backend='cv2').transform
        self.predictor, self.out, self.score_thr = predictor, out, score_thr
        self.max_size = max_size or max(predictor.recipe.test_cfg.get('size') or [MAX_SIZE]) * 5 // 4
        self.segments = predictor.recipe.task == 'segment'
        if visualizer is None:
            init_default_scope('mmseg' if self.segments else 'mmdet')
            visualizer = dict(type=f'{"Seg" if self.segments else "Det"}LocalVisualizer', name='visualizer')
        self.visualizer = VISUALIZERS.build(dict(visualizer, vis_backends=None))
        self.visualizer.dataset_meta = dict(classes=predictor.recipe.classes, palette=list(predictor.recipe.palette))

    def predict(self, image: np.ndarray) -> Any:
        """The result for an image: mm's ``InstanceData``, or a label map of its size."""
        free = self.segments and not self.predictor.resizes
        (result,) = self.predictor([reduced(image, self.max_size) if free else image])
        if free and result.shape != image.shape[:2]:
            result = cv2.resize(result.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        return result

    def draw(self, image: np.ndarray, result: Any, truth: Any = None) -> np.ndarray:
        """The image with its result drawn in, BGR as it came; reduced, because lines do not grow with the image.

        With the truth, of the same kind as the result, that is drawn on a copy to the left.
        """
        import torch
        from mmdet.structures import DetDataSample
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        if self.segments and truth is not None:
            return np.concatenate([self.draw(image, truth), self.draw(image, result)], axis=1)
        small = reduced(image, MOST_DRAWN)
        rgb = np.ascontiguousarray(small[..., ::-1])
        if self.segments:
            result = cv2.resize(result.astype(np.uint8), small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            sample = SegDataSample(pred_sem_seg=PixelData(data=torch.from_numpy(result)[None].long()))
            self.visualizer.add_datasample('result', rgb, sample, draw_gt=False)
            drawn = self.visualizer.get_image()
            darkened = (rgb * (1 - self.visualizer.alpha)).astype(np.uint8)  # by black, as the background often is
            drawn = np.where((drawn == darkened).all(2, keepdims=True), rgb, drawn)
        else:
            scale = torch.tensor([small.shape[1] / image.shape[1], small.shape[0] / image.shape[0]] * 2)
            result = type(result)(bboxes=result.bboxes * scale, scores=result.scores, labels=result.labels)
            sample = DetDataSample(pred_instances=result)
            if truth is not None:
                sample.gt_instances = type(truth)(bboxes=truth.bboxes * scale, labels=truth.labels)
            shown = dict(draw_gt=truth is not None, pred_score_thr=self.score_thr)
            self.visualizer.add_datasample('result', rgb, sample, **shown)
            drawn = self.visualizer.get_image()
        return np.ascontiguousarray(drawn[..., ::-1])

    def describe(self, result: Any) -> dict[str, Any]:
        """A result as plain data.

        Returns:
            ``objects``: label, score and box (x1, y1, x2, y2 in pixels) of each, the highest-scoring first; or
            ``classes``: the share of the image that each takes.
        """
        names = self.predictor.recipe.classes
        if self.segments:
            shares = np.bincount(result.ravel(), minlength=len(names)) / result.size
            return dict(classes={names[i]: round(x, 4) for i, x in enumerate(shares.tolist()) if x > 0})
        rows = zip(result.labels.tolist(), result.scores.tolist(), result.bboxes.tolist())
        return dict(
            objects=[
                dict(label=names[label], score=round(score, 4), box=[round(x, 1) for x in box])
                for label, score, box in rows
                if score >= self.score_thr
            ]
        )

    def predict_image(self, source: Source) -> dict[str, Any]:
        """Writes the drawn image, the result as JSON, and a segmenter's label map as an indexed PNG."""
        image: np.ndarray = self.load(dict(img_path=str(source.path)))['img']  # type: ignore[index]
        result = self.predict(image)
        found = dict(file=str(source.path), height=image.shape[0], width=image.shape[1], **self.describe(result))
        target = self.out / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(f'{target}.jpg') as draft:
            draft.write_bytes(cv2.imencode('.jpg', self.draw(image, result))[1].tobytes())
        if self.segments:
            from mnv2_backbone.data.masks import save_indexed_png

            with whole_file(f'{target}.png') as draft:
                save_indexed_png(draft, result, self.predictor.recipe.palette)
        self._write_json(target, found)
        return found

    def predict_video(self, source: Source) -> Iterator[int]:
        """Writes the video with results drawn in (.mp4) and the results of its frames as JSON.

        Yields the number of frames that the file announces, once for each frame done.
        """
        from mmcv import VideoReader

        video = VideoReader(str(source.path))
        target, rate = self.out / source.name, video.fps or 25.0
        target.parent.mkdir(parents=True, exist_ok=True)
        frames: list[dict[str, Any]] = []
        with whole_file(f'{target}.mp4') as draft:
            writer = None
            try:
                for image in video:
                    result = self.predict(image)
                    drawn = self.draw(image, result)
                    if writer is None:
                        size = (drawn.shape[1], drawn.shape[0])
                        writer = cv2.VideoWriter(str(draft), cv2.VideoWriter.fourcc(*'mp4v'), rate, size)
                    writer.write(drawn)
                    frames.append(dict(frame=len(frames), **self.describe(result)))
                    yield video.frame_cnt
            finally:
                if writer is not None:
                    writer.release()
            if not frames:
                raise UserError(f'{source.path} is not a video that can be read')
            # OpenCV does not say that it could not write.
            if (written := int(cv2.VideoCapture(str(draft)).get(cv2.CAP_PROP_FRAME_COUNT))) != len(frames):
                raise UserError(f'{target}.mp4 cannot be written: {max(written, 0)} of {len(frames)} frames are in it')
        self._write_json(target, dict(file=str(source.path), fps=rate, frames=frames))
        if len(frames) < video.frame_cnt:
            raise UserError(f'{source.path}: only {len(frames)} of {video.frame_cnt} frames could be read and are done')

    def _write_json(self, target: Path, content: Mapping[str, Any]) -> None:
        with whole_file(f'{target}.json') as draft:
            draft.write_text(json.dumps(content, indent=1) + '\n')
