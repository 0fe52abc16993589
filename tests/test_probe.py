"""What the ImageNet backbone has learned: a linear probe on pooled features of real photographs."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import cv2
import numpy as np
import torch
from conftest import place
from mmdet.datasets import VOCDataset

from mnv2_backbone import Classifier
from mnv2_backbone.network.fit import load_backbone
from mnv2_backbone.weights.fetch import obtain

CLASSES = VOCDataset.METAINFO['classes']


def read(folder, split):
    names = (folder / f'ImageSets/Main/{split}.txt').read_text().split()
    pictures, labels = [], []
    for name in names:
        picture = cv2.imread(str(folder / f'JPEGImages/{name}.jpg'))[..., ::-1]
        pictures.append(cv2.resize(picture, (224, 224), interpolation=cv2.INTER_AREA))
        found = {node.text for node in ET.parse(folder / f'Annotations/{name}.xml').iterfind('object/name')}
        labels.append([float(label in found) for label in CLASSES])
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), torch.tensor(labels)


@torch.no_grad()
def features(net, pictures):
    batches = pictures.split(32)
    out = [net(batch.float() / 127.5 - 1)['global_pool'].flatten(1) for batch in batches]
    x = torch.cat(out).double()
    return (x - x.mean(0)) / (x.std(0) + 1e-6)


def mean_average_precision(scores, truth):
    found = []
    for score, target in zip(scores.T, truth.T):
        hits = target[score.argsort(descending=True)]
        if hits.sum():
            precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
            found.append((precision * hits).sum() / hits.sum())
    return torch.stack(found).mean().item()


def probe(net, train, val):
    """Ridge regression from features to labels; mAP over the labels of the held-out pictures."""
    (x, y), (z, truth) = ((features(net, pictures), labels.double()) for pictures, labels in (train, val))
    gram = x @ x.T + 300 * torch.eye(len(x), dtype=x.dtype)
    weights = x.T @ torch.linalg.solve(gram, y - y.mean(0))
    return mean_average_precision(z @ weights, truth)


def test_imagenet_features_tell_voc_classes_and_random_ones_do_not(real_data, cache):
    place(real_data, cache, 'imagenet-1.0')
    folder = real_data / 'data/VOCdevkit/VOC2012'
    train, val = read(folder, 'train'), read(folder, 'val')
    torch.manual_seed(0)
    net = Classifier(num_classes=0)
    net.init_weights()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():  # one pass gives the random network norms that fit its activations
        net.train()(train[0][:32].float() / 127.5 - 1)
    random = probe(net.eval(), train, val)
    load_backbone(net.backbone, torch.load(obtain('imagenet-1.0'))['state_dict'])
    trained = probe(net, train, val)
    print(f'linear probe, mAP over 20 labels: ImageNet {trained:.3f}, random {random:.3f}')
    assert trained > 0.6 and trained > random + 0.3
