"""Networks for formats that take one image of a fixed size and do not decode, and what is done around them."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from .folding import keep_outputs
from .network import Detector, Segmenter, label_map
from .recipe import Manifest, Size

#: The logarithm of the most that a box may be larger or smaller than its anchor, as in MMDetection's coder.
_MOST = -math.log(16 / 1000)


class RawNetwork(nn.Module):
    """A detector or segmenter, changed in place, as a function of one image of the size (height, width).

    ``decoding`` is what :class:`RunRaw` has to know of it, in plain data.
    """

    def __init__(self, network: Detector | Segmenter, size: Size) -> None:
        super().__init__()
        self.network, self.size = network, size
        body: Any = network.body
        for tensor in (body.first.conv.weight, body.shift):
            tensor.data = tensor.data.flip(1)  # RGB, as everywhere outside OpenCV
        head = network.head
        if isinstance(network, Segmenter):
            mean = (body.pad.pad_value + body.shift).flatten().tolist()
            self.decoding: dict[str, Any] = dict(
                corners=head.align_corners, threshold=getattr(head, 'threshold', None), size=size, mean=mean
            )
            return
        coder = head.bbox_coder
        plain = type(coder).__name__ == 'DeltaXYWHBBoxCoder' and coder.clip_border and not coder.add_ctr_clamp
        if not plain or any(coder.means):
            raise ValueError('bbox_coder: only DeltaXYWHBBoxCoder with clip_border and means of 0 fits this format')
        for predictor in head.reg_convs:
            keep_outputs(predictor[1], 4, [1, 0, 3, 2])
        x1, y1, x2, y2 = network.anchors.unbind(1)
        anchors = torch.stack([y1 + y2, x1 + x2, 2 * (y2 - y1), 2 * (x2 - x1)], 1).numpy() / 2
        stds = [coder.stds[i] for i in (1, 0, 3, 2)]
        text = base64.b64encode(anchors.astype('<f4').tobytes()).decode()
        self.decoding = dict(anchors=text, stds=stds, margin=head.margin, sigmoid=head.score_converter == 'sigmoid')

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """An image (1, h, w, 3), RGB, 0 to 255.

        Returns:
            Of a detector the box codes ``location`` (1, anchors, 4) as y, x, h, w and ``score`` (1, anchors, classes),
            which with sigmoid scores are logits; of a segmenter ``logits`` (1, h', w', classes).
        """
        network: Any = self.network
        maps = network.body(image)
        if 'anchors' not in self.decoding:
            return {'logits': network.head(maps).permute(0, 2, 3, 1)}
        score, location = network.head.flatten(*network.head(network.neck(maps)))
        return {'location': location, 'score': score if self.decoding['sigmoid'] else network.head.scores(score)}


def unit_anchors(manifest: Manifest) -> np.ndarray:
    """The anchors (n, 4) of a detector's file as y, x, h, w in parts of the image."""
    assert manifest.recipe.size is not None
    anchors: np.ndarray = RunRaw(manifest).anchors / np.array(manifest.recipe.size * 2, np.float32)
    return anchors


class RunRaw:
    """Runs the file of a :class:`RawNetwork` on images of any size: resizes, runs, decodes, one after the other.

    A segmenter that does not resize gets images that are padded, and made smaller only if they are larger than it.
    """

    resizes = True

    def __init__(self, manifest: Manifest, run: Callable[[np.ndarray], list[np.ndarray]] | None = None) -> None:
        self.run, self.recipe, self.nms = run, manifest.recipe, manifest.nms
        self.decoding: Mapping[str, Any] = manifest.decoding or {}
        #: Whether the scores of boxes are given before the sigmoid, which few of them need.
        self.logits = self.decoding.get('sigmoid', False) and not self.nms
        if 'anchors' in self.decoding:
            self.anchors = np.frombuffer(base64.b64decode(self.decoding['anchors']), '<f4').reshape(-1, 4)

    def __call__(self, images: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """Of each image boxes (anchors, 4) in its pixels and scores (anchors, classes), or the label map (H, W).

        Scores may be ``logits``. From a file with NMS inside boxes (n, 4), scores (n,) and labels (n,).
        """
        assert self.run is not None, 'made for prepare() alone'
        detects = self._detections if self.nms else self._boxes
        finish = detects if 'anchors' in self.decoding else self._labels
        return [finish(self.run(self.prepare(image)), image.shape[:2]) for image in images]

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """An image (H, W, 3), BGR, uint8, as the network takes it: (1, h, w, 3), RGB, uint8 or float32."""
        if self.recipe.size is None:
            height, width = self.decoding['size']
            resized = cv2.resize(image, self._inside(image.shape[:2])[::-1], interpolation=cv2.INTER_AREA)
            image = np.full((height, width, 3), self.decoding['mean'][::-1], np.float32)
            image[: resized.shape[0], : resized.shape[1]] = resized
        else:
            image = self.recipe.resize(image)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)[None]

    def _inside(self, shape: Sequence[int]) -> Size:
        """The size at which an image fits into the input, not larger than its own."""
        factor = min(1.0, *(most / have for most, have in zip(self.decoding['size'], shape)))
        return max(round(shape[0] * factor), 1), max(round(shape[1] * factor), 1)

    def _boxes(self, outputs: Sequence[np.ndarray], shape: Sequence[int]) -> tuple[np.ndarray, ...]:
        codes, scores = outputs[0][0], outputs[1][0]
        assert self.recipe.size is not None
        height, width = self.recipe.size
        sizes = self.anchors[:, 2:]
        codes = codes * np.array(self.decoding['stds'], np.float32)
        centres = codes[:, :2] * sizes + self.anchors[:, :2]
        halves = np.exp(np.clip(codes[:, 2:], -_MOST, _MOST)) * sizes / 2
        ends = np.array([height, width], np.float32)
        low, high = -self.decoding['margin'] * ends, (1 + self.decoding['margin']) * ends
        corners = [np.clip(x, low, high)[:, ::-1] for x in (centres - halves, centres + halves)]
        scale = np.array([shape[1] / width, shape[0] / height] * 2, np.float32)
        return np.concatenate(corners, 1) * scale, scores

    def _detections(self, outputs: Sequence[np.ndarray], shape: Sequence[int]) -> tuple[np.ndarray, ...]:
        boxes, labels, (count,), scores = outputs  # in the order of their names
        sides = np.array([shape[1], shape[0]] * 2, np.float32)
        found = slice(int(count))
        corners = np.clip(boxes[0][found][:, [1, 0, 3, 2]], 0, 1) * sides
        # The operator keeps boxes that lie outside of the image, which min_bbox_size=0 does without.
        kept = (corners[:, 2:] - corners[:, :2] > self.recipe.test_cfg.get('min_bbox_size', -1)).all(1)
        return corners[kept], scores[0, found][kept], labels[0, found][kept].astype(np.int64)

    def _labels(self, outputs: Sequence[np.ndarray], shape: Sequence[int]) -> tuple[np.ndarray, ...]:
        logits = torch.from_numpy(outputs[0]).permute(0, 3, 1, 2)
        full = self.decoding['size']
        inside = full if self.recipe.size else self._inside(shape)
        found = label_map(logits, full, inside, shape, self.decoding['corners'], self.decoding['threshold'])
        return (found[0].numpy(),)
