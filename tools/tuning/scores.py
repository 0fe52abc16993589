"""The scores of predictions on annotated images: by class, by image, and what is taken for what."""

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_iou

#: What objects that were not found, and boxes without an object, are confused with.
NOTHING = 'nothing'


@dataclass
class Scores:
    """Scores on a set of images.

    Attributes:
        overall: By metric.
        rows: For each class its name, the number of its objects or pixels, and its scores as named in ``columns``.
        confusion: (names, names): how often what is a row's class was taken for a column's.
        errors: For each image, how bad its result is.
        threshold: The score from which a detection counts, for the best F1.
    """

    overall: dict[str, float]
    columns: tuple[str, ...]
    rows: list[tuple[str, int, list[float]]]
    names: list[str]
    confusion: np.ndarray
    errors: list[float]
    threshold: float = 0.0


def score_boxes(annotations: Path, results: Sequence[InstanceData], classes: Sequence[str]) -> Scores:
    """Scores the detections of the images of a COCO file, in its order, with pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        found = [
            dict(image_id=number, category_id=label + 1, bbox=[x, y, right - x, bottom - y], score=score)
            for number, result in enumerate(results, start=1)
            for (x, y, right, bottom), score, label in zip(
                result.bboxes.tolist(), result.scores.tolist(), result.labels.tolist()
            )
        ]
        evaluation = COCOeval(truth, truth.loadRes(found) if found else COCO(), 'bbox')
        evaluation.params.imgIds, evaluation.params.catIds = sorted(truth.imgs), list(range(1, len(classes) + 1))
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval['precision'][..., 0, 2]  # (IoU, recall, class), for objects of all sizes
    recall = evaluation.eval['recall'][0, :, 0, 2]
    present = [number for number in range(len(classes)) if (precision[..., number] > -1).any()]
    rows = []
    for number in present:
        count = len(truth.getAnnIds(catIds=[number + 1], iscrowd=False))
        rows.append(
            (classes[number], count, [precision[0, :, number].mean(), precision[..., number].mean(), recall[number]])
        )
    threshold, f1 = _best_threshold(evaluation, sum(count for _, count, _ in rows))
    overall = {name: float(np.mean([row[2][i] for row in rows])) for i, name in enumerate(('AP50', 'AP'))}
    confusion = np.zeros((len(classes) + 1,) * 2, int)
    errors = []
    for number, result in enumerate(results, start=1):
        single = _confusion(truth.imgToAnns[number], result[result.scores >= threshold], len(classes))
        confusion += single
        errors.append(float(single.sum() - np.trace(single)))
    columns, names = ('AP50', 'AP', 'recall'), [*classes, NOTHING]
    return Scores(overall | {'F1': f1}, columns, rows, names, confusion, errors, threshold)


def _best_threshold(evaluation: Any, objects: int) -> tuple[float, float]:
    """The score from which detections give the best F1 over all classes, and this F1, at an IoU of 0.5."""
    entries = [entry for entry in evaluation.evalImgs if entry and entry['aRng'] == evaluation.params.areaRng[0]]
    if not entries:
        return 0.5, 0.0
    scores = np.concatenate([entry['dtScores'] for entry in entries])
    right = np.concatenate([entry['dtMatches'][0] > 0 for entry in entries])
    counted = np.concatenate([~entry['dtIgnore'][0].astype(bool) for entry in entries])
    best = (0.5, 0.0)
    for threshold in np.arange(0.1, 0.95, 0.05):
        chosen = (scores >= threshold) & counted
        f1 = 2 * (chosen & right).sum() / max(chosen.sum() + objects, 1)
        best = max(best, (round(float(threshold), 2), float(f1)), key=lambda pair: pair[1])
    return best


def _confusion(annotations: Sequence[dict], found: InstanceData, classes: int) -> np.ndarray:
    """What the objects of an image were taken for: matched by their overlap, whatever their class."""
    table = np.zeros((classes + 1,) * 2, int)
    real = [entry for entry in annotations if not entry['iscrowd']]
    x, y, w, h = torch.tensor([entry['bbox'] for entry in real]).reshape(-1, 4).unbind(1)
    overlaps = box_iou(torch.stack([x, y, x + w, y + h], 1), found.bboxes.float())
    missed, extra = set(range(len(real))), set(range(len(found)))
    for place in overlaps.flatten().argsort(descending=True).tolist():
        i, j = divmod(place, max(len(found), 1))
        if overlaps[i, j] < 0.5:
            break
        if i in missed and j in extra:
            table[real[i]['category_id'] - 1, int(found.labels[j])] += 1
            missed.discard(i)
            extra.discard(j)
    for i in missed:
        table[real[i]['category_id'] - 1, classes] += 1
    for j in extra:
        table[classes, int(found.labels[j])] += 1
    return table


def score_masks(truths: Iterable[np.ndarray], results: Iterable[np.ndarray], classes: Sequence[str]) -> Scores:
    """Scores label maps (H, W); pixels with 255 in the truth are left out."""
    size = len(classes)
    confusion, errors = np.zeros((size, size), int), []
    for truth, result in zip(truths, results):
        kept = truth != 255
        pairs = truth[kept].astype(int) * size + result[kept].astype(int)
        single = np.bincount(pairs, minlength=size * size).reshape(size, size)
        confusion += single
        errors.append(1 - float(np.nanmean(_iou(single))))
    iou, pixels = _iou(confusion), confusion.sum(1)
    with np.errstate(invalid='ignore', divide='ignore'):
        recall = np.diag(confusion) / pixels
    rows = [(name, int(pixels[i]), [float(iou[i]), float(recall[i])]) for i, name in enumerate(classes) if pixels[i]]
    overall = {'mIoU': float(np.nanmean(iou)), 'accuracy': float(np.trace(confusion) / max(confusion.sum(), 1))}
    return Scores(overall, ('IoU', 'recall'), rows, list(classes), confusion, errors)


def _iou(confusion: np.ndarray) -> np.ndarray:
    """The IoU of each class, NaN for classes that do not occur."""
    with np.errstate(invalid='ignore'):
        return np.asarray(np.diag(confusion) / (confusion.sum(0) + confusion.sum(1) - np.diag(confusion)))
