"""What the variants of a task read: the same images, and weights with which they do the same amount of work.

The weights are random. Their norms get the statistics of real features, so that maps have the same range as in trained
networks, and a bias that leaves most activations in the middle of ReLU6: random layers that cut off half of them turn a
rounding at the beginning of the network into another result at its end. Detectors get scores as sparse as those of
trained ones, so that their NMS has work to do: logits of the classes with a deviation of 2, and a bias of the
background with which :data:`CANDIDATES` pairs of anchor and class pass the score threshold of the detector's config.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn
from toy.dataset import SceneOptions, scene_at, write_toy_dataset

from mnv2_backbone import MobileNetV2
from mnv2_backbone.training.options import load_config

from . import peers

#: Our models, by task.
CONFIGS = {
    'detect': 'ssdlite_mnv2_coco.py',
    'fpnlite': 'fpnlite_mnv2_320_coco.py',
    'segment': 'deeplabv3lite_mnv2_voc.py',
}
#: Their weights.
CHECKPOINTS = {'detect': 'our_detector.pt', 'fpnlite': 'our_fpnlite.pt', 'segment': 'our_segmenter.pt'}
#: Side of a bare backbone's input.
BACKBONE_SIZE = 320
#: Pairs of anchor and class above the score threshold, before NMS.
CANDIDATES = 400
#: Drawn images to train on if there are no others.
TOY_PICTURES = 240
#: Mean of what activations get; the deviation is 1.
SHIFT = 2.5
#: Deviation of the class logits.
SPREAD = 2.0


def our_config(task: str, configs: Path) -> Config:
    """The config of our model of a task."""
    return load_config(str(configs / CONFIGS[task]))


def images(count: int, height: int, width: int) -> list[np.ndarray]:
    """Drawn images (height, width, 3), BGR, uint8."""
    side = max(height, width)
    scenes = (scene_at(0, 'val', index, SceneOptions(side=(side, side))) for index in range(count))
    return [np.ascontiguousarray(scene.image[:height, :width]) for scene in scenes]


def write_calibration(folder: Path, batch: Sequence[np.ndarray]) -> None:
    """Writes images to calibrate with into ``folder/calibration``."""
    (folder / 'calibration').mkdir()
    for index, image in enumerate(batch):
        cv2.imwrite(str(folder / f'calibration/{index}.png'), image)


def write_inputs(turns: Any, task: str, folder: Path, configs: Path, **_: Any) -> None:
    """Writes all that the variants of ``task`` read; to be run in a process of its own."""
    torch.manual_seed(0)
    write = dict(backbone=_write_backbone, detect=_write_detectors, fpnlite=_write_fpnlite, segment=_write_segmenters)
    write[task](folder, configs)
    turns.begin()


def write_toy_coco(turns: Any, folder: Path, **_: Any) -> None:
    """Writes drawn images of about COCO's size in COCO's layout, below ``folder``; their classes get COCO's names."""
    from mmdet.datasets import CocoDataset

    write_toy_dataset(folder, train=TOY_PICTURES, val=1, options=SceneOptions(side=(480, 640)))
    content = json.loads((folder / 'annotations/instances_train.json').read_text())
    for category, name in zip(content['categories'], CocoDataset.METAINFO['classes']):
        category['name'] = name
    (folder / 'annotations/instances_train2017.json').write_text(json.dumps(content))
    (folder / 'train').rename(folder / 'train2017')
    turns.begin()


@torch.no_grad()
def settle_norms(network: nn.Module, call: Callable[[], Any]) -> None:
    """Gives batch norms the statistics of what ``call`` puts through them, and a bias of :data:`SHIFT`.

    The network ends in evaluation mode.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.momentum = 1.0
        nn.init.constant_(norm.bias, SHIFT)
        norm.train()
    call()
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()


@torch.no_grad()
def spread_logits(convs: Sequence[nn.Conv2d], call: Callable[[], Any]) -> list[Tensor]:
    """Gives the outputs of last convolutions mean 0 and deviation :data:`SPREAD`; returns what ``call`` then gives.

    A convolution that several maps share gives as many outputs.
    """
    found: dict[nn.Module, list[Tensor]] = {conv: [] for conv in convs}
    handles = [conv.register_forward_hook(lambda module, _, output: found[module].append(output)) for conv in convs]
    call()
    for handle in handles:
        handle.remove()
    outputs = []
    for conv in convs:
        values = torch.cat([x.flatten() for x in found[conv]])
        mean, scale = values.mean(), SPREAD / values.std()
        assert conv.bias is not None
        conv.weight *= scale
        conv.bias.copy_((conv.bias - mean) * scale)
        outputs += [(x - mean) * scale for x in found[conv]]
    return outputs


@torch.no_grad()
def thin_candidates(
    convs: Sequence[nn.Conv2d], outputs: Sequence[Tensor], background: int, score_thr: float, scores: str = 'softmax'
) -> None:
    """Shifts the bias of all classes but the background so that :data:`CANDIDATES` scores pass a threshold.

    ``convs`` are the last convolutions of the class scores, the classes of an anchor side by side, ``outputs`` theirs
    for one image; ``background`` is its place among the classes; ``scores`` is ``'softmax'`` or ``'sigmoid'``.
    """
    classes = peers.CLASSES + 1
    logits = torch.cat([x.permute(0, 2, 3, 1).reshape(-1, classes) for x in outputs])
    foreground = [index for index in range(classes) if index != background % classes]

    def passing(shift: float) -> int:
        shifted = logits.clone()
        shifted[:, foreground] -= shift
        found = shifted.softmax(1) if scores == 'softmax' else shifted.sigmoid()
        return int((found[:, foreground] > score_thr).sum())

    low, high = -50.0, 50.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if passing(middle) > CANDIDATES else (low, middle)
    for conv in convs:
        assert conv.bias is not None
        conv.bias.view(-1, classes)[:, foreground] -= high


def _write_backbone(folder: Path, configs: Path) -> None:
    network = MobileNetV2(out_indices='layer_19')
    network.init_weights()
    normalised = torch.from_numpy(np.stack(images(4, BACKBONE_SIZE, BACKBONE_SIZE))).permute(0, 3, 1, 2) / 127.5 - 1
    settle_norms(network, lambda: network(normalised))
    layers = [(layer.state_dict(), getattr(layer, 'eps', None)) for layer in peers.convs_and_norms(network)]
    torch.save(layers, folder / 'backbone_layers.pt')
    np.save(folder / 'normalised.npy', normalised.numpy())


def _prepare_detector(model: Any, batch: Sequence[np.ndarray], target: Path) -> None:
    """Gives one of MMDetection's or ours norms and scores as of a trained one, and writes its weights."""
    inputs = [torch.from_numpy(cv2.resize(x, (320, 320))).permute(2, 0, 1) for x in batch]
    data = model.data_preprocessor(dict(inputs=inputs, data_samples=None))['inputs']
    settle_norms(model, lambda: model(data))
    convs = [module[-1] for module in model.bbox_head.cls_convs]
    outputs = spread_logits(convs, lambda: model(data[:1]))
    scores = getattr(model.bbox_head, 'score_converter', 'softmax')
    thin_candidates(convs, outputs, -1, model.test_cfg.score_thr, scores)
    torch.save(model.state_dict(), target)


def _write_our_detector(task: str, folder: Path, configs: Path) -> list[np.ndarray]:
    """Writes what our rows of a detector need; returns the images."""
    from mmdet.apis import init_detector

    batch = images(4, 480, 640)
    np.save(folder / f'{task}.npy', batch[0])
    write_calibration(folder, batch)
    _prepare_detector(init_detector(our_config(task, configs), device='cpu'), batch, folder / CHECKPOINTS[task])
    return batch


def _write_fpnlite(folder: Path, configs: Path) -> None:
    _write_our_detector('fpnlite', folder, configs)


def _write_detectors(folder: Path, configs: Path) -> None:
    batch = _write_our_detector('detect', folder, configs)
    _prepare_detector(peers.mmdet_detector(), batch, folder / 'mmdet_detector.pt')
    network: Any = peers.torchvision_detector()
    tensors = [peers.as_tensor(x, 'cpu') for x in batch]
    settle_norms(network, lambda: network(tensors))
    convs = [module[-1] for module in network.head.classification_head.module_list]
    outputs = spread_logits(convs, lambda: network(tensors[:1]))
    thin_candidates(convs, outputs, 0, network.score_thresh)
    torch.save(network.state_dict(), folder / 'torchvision_detector.pt')


def _write_segmenters(folder: Path, configs: Path) -> None:
    from mmseg.apis import inference_model, init_model

    batch = images(4, 513, 513)
    np.save(folder / 'segment.npy', batch[0])
    write_calibration(folder, batch)
    ours = init_model(our_config('segment', configs), device='cpu')
    for name, model in (('our', ours), ('mmseg', peers.mmseg_segmenter())):
        settle_norms(model, partial(inference_model, model, batch))
        spread_logits([model.decode_head.conv_seg], partial(inference_model, model, batch[0]))
        torch.save(model.state_dict(), folder / f'{name}_segmenter.pt')
    network = peers.torchvision_segmenter()
    tensors = torch.stack([peers.as_tensor(x, 'cpu') for x in batch])
    settle_norms(network, lambda: network(tensors))
    torch.save(network.state_dict(), folder / 'torchvision_segmenter.pt')
