"""DeepLab against TensorFlow's outputs, the papers' counts, and as a user trains and tests it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, shuffled
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.structures import PixelData
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip('mmseg', reason='segmentation needs MMSegmentation: pip install .[mm]')

from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules
from toy.dataset import write_toy_dataset

from mnv2_backbone.data.masks import IndexedIoUMetric, save_indexed_png
from mnv2_backbone.errors import UserError
from mnv2_backbone.network.deeplab import DeepLabHead, LabelError
from mnv2_backbone.weights.convert import read

register_all_modules()
VARIANTS = {
    'lite': 'deeplabv3lite_mnv2_voc',
    'aspp': 'deeplabv3_mnv2_aspp_voc',
    'sepaspp': 'deeplabv3_mnv2_sepaspp_voc',
    'skip': 'deeplabv3plus_mnv2_voc',
    'lraspp': 'lraspp_mnv2_cityscapes',
}


def config(name, **options):
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    cfg.model.backbone.init_cfg = None  # tests fetch nothing
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return cfg


def network(name, **options):
    init_default_scope('mmseg')
    return MODELS.build(config(name, **options).model)


def sample(labels, **meta):
    height, width = labels.shape[-2:]
    meta = dict(img_shape=(height, width), ori_shape=(height, width), **meta)
    return SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=labels))


@pytest.fixture(scope='module')
def google(real_data):
    """Google's network in the config that is made for it, and the config."""
    cfg = config('deeplabv3lite_mnv2_voc_tf')
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    state = read(real_data / 'weights/deeplabv3_mnv2_pascal_trainval_tfjs').state_dict
    model.load_state_dict(state)
    return model.eval(), cfg


def test_logits_and_labels_equal_tensorflows(google, real_data):
    model, cfg = google
    dataset = cfg.test_dataloader.dataset
    dataset.update(data_root=str(real_data / 'data/VOCdevkit'), indices=6)
    caught = []
    hook = model.decode_head.conv_seg.register_forward_hook(lambda *call: caught.append(call[2]))
    compared = 0
    for item in DATASETS.build(dataset):
        with torch.no_grad():
            result = model.test_step(dict(inputs=[item['inputs']], data_samples=[item['data_samples']]))[0]
        reference = real_data / 'reference/deeplabv3_tf_outputs' / f'{Path(result.img_path).stem}.npz'
        expected = np.load(reference)
        logits = caught.pop()[0].permute(1, 2, 0).numpy()
        assert logits.shape == (65, 65, 21)
        assert np.abs(logits - expected['logits']).max() < 1e-3 * np.abs(expected['logits']).max()
        labels = result.pred_sem_seg.data[0].numpy()
        assert labels.shape == expected['predictions'].shape
        assert (labels == expected['predictions']).mean() > 0.999
        compared += 1
    hook.remove()
    assert compared == 6


def test_trained_features_agree_across_output_strides_on_a_photo(google, real_data):
    model, _ = google
    photo = cv2.imread(str(real_data / 'data/VOCdevkit/VOC2012/JPEGImages/2007_000042.jpg'))
    x = torch.from_numpy(photo[:321, :385, ::-1].copy()).permute(2, 0, 1)[None] / 127.5 - 1
    maps = {}
    for output_stride in (8, 16, 32):
        net = network('deeplabv3lite_mnv2_voc_tf', model__backbone__output_stride=output_stride).backbone
        net.load_state_dict(model.backbone.state_dict())
        with torch.no_grad():
            maps[output_stride] = net.eval()(x)[0]
    assert maps[32].shape == (1, 320, 11, 13) and maps[32].std() > 0.1
    for output_stride in (8, 16):
        step = 32 // output_stride
        torch.testing.assert_close(maps[output_stride][:, :, ::step, ::step], maps[32], rtol=1e-4, atol=1e-4)
        # ... and there is more between them than a repetition
        assert (maps[output_stride][:, :, 1::step, ::step] - maps[32][:, :, :-1]).abs().max() > 0.1


@pytest.mark.parametrize(
    ('name', 'size', 'options', 'params', 'madds'),
    [
        # table 7 of the MobileNetV2 paper, to the digits that a count from slim's code gives
        ('lite', (513, 513), {}, 2.1136, 2.741),
        ('lite', (513, 513), {'model__backbone__output_stride': 8}, 2.1136, 8.83),
        ('aspp', (513, 513), {}, 4.52, None),
        # table 7 of the MobileNetV3 paper: V2 R-ASPP F256, and its RF2 with LR-ASPP
        ('lite', (1025, 2049), {'model__decode_head__num_classes': 19}, 2.11, 21.29),
        ('lraspp', (1025, 2049), {}, None, 12.83),
        ('lraspp', (1025, 2049), {'model__decode_head__channels': 128}, None, 12.57),
    ],
)
def test_counts_equal_the_papers(name, size, options, params, madds):
    model = network(VARIANTS[name], **options).eval()
    if params is not None:
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(params, rel=0.005)
    if madds is not None:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.to('meta')(torch.rand(1, 3, *size, device='meta'))
        assert counter.get_total_flops() / 2e9 == pytest.approx(madds, rel=0.005)


@pytest.mark.parametrize('name', VARIANTS)
def test_any_size_and_another_output_stride_with_the_same_weights(name):
    options = dict(model__backbone__widen_factor=0.35, model__decode_head__channels=32)
    trained = network(VARIANTS[name], **options)
    finer = network(VARIANTS[name], **options, model__backbone__output_stride=8).eval()
    finer.load_state_dict(trained.state_dict())
    for size in ((97, 131), (64, 32), (20, 20)):
        labels = torch.randint(0, 19, (2, 1, *size))
        labels[:, :, :5] = 255
        samples = [sample(label) for label in labels]
        losses = trained.train().loss(torch.rand(2, 3, *size), samples)
        losses['decode.loss_ce'].backward()
        assert all(torch.isfinite(p.grad).all() for p in trained.parameters())
        with torch.no_grad():
            result = finer(torch.rand(1, 3, *size), samples[:1], mode='predict')[0]
        assert result.pred_sem_seg.data.shape == (1, *size)


def test_ignored_pixels_do_not_count():
    model = network('deeplabv3lite_mnv2_voc', model__backbone__widen_factor=0.35).eval()  # no dropout
    x = torch.rand(2, 3, 65, 65)
    labels = torch.randint(0, 21, (2, 1, 65, 65))
    every, half = labels.clone(), labels.clone()
    half[:, :, :32] = 255
    every[:, :, :32] = (every[:, :, :32] + 1) % 21  # other labels where they are ignored

    def loss(maps):
        return model.loss(x, [sample(label) for label in maps])['decode.loss_ce']

    kept = torch.full_like(labels, 255)
    kept[:, :, 32:] = every[:, :, 32:]
    assert loss(half) == loss(kept) != loss(every)
    pixels = torch.nn.functional.interpolate(model(x), (65, 65), mode='bilinear', align_corners=True)
    mean = torch.nn.functional.cross_entropy(pixels[:, :, 32:], labels[:, 0, 32:])  # not over all pixels
    torch.testing.assert_close(loss(half), mean)
    assert loss(torch.full_like(labels, 255)) == 0


@pytest.mark.parametrize('separable', [False, True])
def test_atrous_rates_follow_the_output_stride(separable):
    options = dict(num_classes=3, channels=8, atrous_rates=(2, 3), separable=separable)
    coarse = DeepLabHead(6, output_stride=16, **options).eval()
    fine = DeepLabHead(6, output_stride=8, **options).eval()
    fine.load_state_dict(coarse.state_dict())
    x = torch.rand(1, 6, 17, 21)
    for name in coarse.branches:
        here, there = getattr(fine, name)(x), getattr(coarse, name)(x[:, :, ::2, ::2])
        torch.testing.assert_close(here[:, :, ::2, ::2], there)


def test_heads_serve_mmsegs_own_segmentor():
    """With channels by hand, as any head of MMSegmentation."""
    cfg = config('deeplabv3plus_mnv2_voc').model
    cfg.type = 'EncoderDecoder'
    cfg.decode_head.in_channels = (144, 320)
    init_default_scope('mmseg')
    assert MODELS.build(cfg).eval()(torch.rand(1, 3, 64, 64)).shape == (1, 21, 16, 16)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(model__decode_head__in_channels=256), r'in_channels=256 does not fit .* \(320,\)'),
        (dict(model__decode_head__output_stride=8), 'output_stride=8 does not fit .* 16'),
        (dict(model__decode_head__skip_channels=48), 'the head takes 2 maps, the finer one first'),
        (dict(model__decode_head__skip_channels=-1), 'skip_channels=-1'),
        (dict(model__decode_head__atrous_rates=(6, 0)), r'atrous_rates=\(6, 0\)'),
        (dict(model__backbone__out_indices=('layer_4', 'layer_18')), 'the head takes 1 map'),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        network('deeplabv3lite_mnv2_voc', **options)


def test_a_single_picture_cannot_be_trained_on():
    model = network('deeplabv3lite_mnv2_voc', model__backbone__widen_factor=0.35)
    labels = torch.zeros(1, 1, 64, 64, dtype=torch.long)
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        model.train().loss(torch.rand(1, 3, 64, 64), [sample(labels[0])])


@pytest.mark.parametrize('mode', ['loss', 'predict'])
def test_labels_that_are_no_class_are_refused_with_their_file(mode):
    model = network('deeplabv3lite_mnv2_voc', model__backbone__widen_factor=0.35)
    good = torch.zeros(1, 33, 33, dtype=torch.long)
    bad = good.clone()
    bad[0, 3, 4], bad[0, 5, 6], bad[0, 0, 0] = 21, 254, 255
    samples = [sample(good, seg_map_path='good.png'), sample(bad, seg_map_path='masks/bad.png')]
    with pytest.raises(LabelError, match=r'masks/bad.png has the labels 21, 254; .*0 to 20, and 255'):
        model(torch.rand(2, 3, 33, 33), samples, mode=mode)
    samples[1] = sample(torch.zeros(33, 33, 3, dtype=torch.long), seg_map_path='masks/rgb.png')
    with pytest.raises(LabelError, match='masks/rgb.png is no label map'):
        model(torch.rand(2, 3, 33, 33), samples, mode=mode)


def test_indexed_png_keeps_labels_and_colours(tmp_path, real_data):
    original = Image.open(real_data / 'data/VOCdevkit/VOC2012/SegmentationClass/2007_000042.png')
    labels = np.asarray(original)
    save_indexed_png(tmp_path / 'a/b.png', labels)
    written = Image.open(tmp_path / 'a/b.png')
    assert written.mode == 'P' and (np.asarray(written) == labels).all()
    assert (np.asarray(written.convert('RGB')) == np.asarray(original.convert('RGB'))).all()
    for wrong in (labels[None], labels / 2, labels.astype(int) * 2, labels.astype(int) - 1):
        with pytest.raises(ValueError, match='labels'):
            save_indexed_png(tmp_path / 'c.png', wrong)


@pytest.mark.parametrize('output_stride', [32, 16, 8])
def test_comparison_with_mmsegs_backbone_differs_in_the_rates_alone(output_stride, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    import compare_peers

    cfg = config('deeplabv3lite_mnv2_voc', model__backbone__output_stride=output_stride)
    init_default_scope('mmseg')
    ours = shuffled(MODELS.build(cfg.model))
    state = compare_peers.use_mmseg(cfg, ours.state_dict())
    theirs = MODELS.build(cfg.model).eval()
    theirs.load_state_dict(state)
    with torch.no_grad():
        x = torch.rand(1, 3, 97, 129)  # sizes at which both pad alike
        a, b = ours(x), theirs(x)
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max())) == (output_stride == 32)


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp('data') / 'toy', train=6, val=3)


def tool(name, *arguments, **options):
    values = {
        'model.backbone.widen_factor': 0.35,
        'train_dataloader.batch_size': 3,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'train_dataloader.dataset.pipeline.2.scale': '(97,97)',
        'model.backbone.init_cfg': None,
        'model.data_preprocessor.size': '(97,97)',
        'val_dataloader.num_workers': 0,
        'val_dataloader.persistent_workers': False,
        'test_dataloader.num_workers': 0,
        'test_dataloader.persistent_workers': False,
        'train_cfg.max_epochs': 1,
        'train_cfg.val_interval': 1,
        **options,
    }
    options = [f'{key}={value}' for key, value in values.items()]
    command = [sys.executable, ROOT / 'tools' / name, ROOT / 'configs/deeplabv3lite_mnv2_demo.py', *arguments]
    return subprocess.run(
        [str(part) for part in (*command, '--cfg-options', *options)],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
    )


def test_train_and_test_as_typed(toy, tmp_path):
    run = tool('train.py', '--work-dir', tmp_path / 'run', data_root=toy)
    assert run.returncode == 0, run.stderr
    assert 'mIoU' in run.stdout + run.stderr
    # at another output stride, by one option
    run = tool(
        'test.py', tmp_path / 'run/epoch_1.pth', '--work-dir', tmp_path / 'test', '--out', tmp_path / 'masks',
        '--show-dir', tmp_path / 'drawn', data_root=toy, **{'model.backbone.output_stride': 8},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    masks = sorted((tmp_path / 'masks').glob('*.png'))
    assert [path.name for path in masks] == ['000001.png', '000002.png', '000003.png']
    palette = np.array(config('deeplabv3lite_mnv2_demo').metainfo.palette)
    for path in masks:
        mask = Image.open(path)
        assert mask.size == Image.open(toy / 'val' / path.with_suffix('.jpg').name).size
        assert (np.asarray(mask.convert('RGB')) == palette[np.asarray(mask)]).all()
    assert len(list((tmp_path / 'drawn').rglob('*.png'))) == 3


def test_peers_are_trained_alike(toy, tmp_path):
    ours = network('deeplabv3lite_mnv2_demo', model__backbone__widen_factor=0.35)
    kept = {key: value for key, value in ours.state_dict().items() if key.startswith('backbone.')}
    torch.save(dict(state_dict=kept), tmp_path / 'start.pth')
    run = tool('compare_peers.py', tmp_path / 'start.pth', '--seeds', 3, '--work-dir', tmp_path, data_root=toy)
    assert run.returncode == 0, run.stderr
    lines = [line.split(', seed 3: ') for line in run.stdout.splitlines() if ', seed 3: ' in line]
    assert [name for name, _ in lines] == ['ours', 'mmseg']
    for name, line in lines:
        scores = json.loads((tmp_path / f'{name}_seed3/scores.json').read_text())
        assert json.loads(line) == scores
        assert scores['val'] == scores['test'] and 0 <= scores['test']['mIoU'] <= 100  # of the same images
        by_class = [value for key, value in scores['test'].items() if key.startswith('IoU ')]
        assert np.mean(by_class) == pytest.approx(scores['test']['mIoU'], abs=0.006)  # which is rounded
        (log,) = (tmp_path / f'{name}_seed3').glob('*/vis_data/scalars.json')  # each run has its own
        assert [entry for entry in map(json.loads, log.read_text().splitlines()) if 'mIoU' in entry]

    (tmp_path / 'ours_seed3/scores.json').unlink()  # as if it had been cut in its last validation
    start = ('compare_peers.py', tmp_path / 'start.pth', '--seeds', 3, '--work-dir', tmp_path)
    again = tool(*start, '--resume', data_root=toy)
    assert again.returncode == 0, again.stderr
    after = [line.split(', seed 3: ')[1] for line in again.stdout.splitlines() if ', seed 3: ' in line]
    (ours, resumed), (before, kept) = (
        (json.loads(text) for text in pair) for pair in zip((x for _, x in lines), after)
    )
    assert kept == before and {**resumed, 'seconds': 0} == {**ours, 'seconds': 0}
    for options, said in (((), 'add --resume'), (('--resume', '--no-train'), 'begun with trained=True')):
        refused = tool(*start, *options, data_root=toy)
        assert refused.returncode == 2 and said in refused.stderr and 'Traceback' not in refused.stderr


def test_wrong_labels_stop_the_run_with_one_line(tmp_path):
    toy = write_toy_dataset(tmp_path / 'toy', train=6, val=1)
    path = toy / 'val_labels/000001.png'
    labels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    labels[labels == 0] = 9
    cv2.imwrite(str(path), labels)
    run = tool('train.py', '--work-dir', tmp_path / 'run', data_root=toy)
    assert run.returncode != 0
    assert f'{path} has the label 9; with num_classes=9 allowed are 0 to 8' in run.stderr
    assert 'Traceback' not in run.stderr


def test_images_of_one_name_do_not_replace_each_others_label_maps(tmp_path: Path) -> None:
    metric = IndexedIoUMetric(output_dir=str(tmp_path), format_only=True)
    metric.dataset_meta = dict(classes=('a', 'b'))
    labels = dict(data=torch.zeros(1, 4, 4, dtype=torch.uint8))
    for name in ('x/1.jpg', 'x/2.jpg', 'x/1.jpg'):
        metric.process({}, [dict(img_path=name, pred_sem_seg=labels)])
    with pytest.raises(UserError, match='x/1.jpg and y/1.jpg would both be written as 1.png'):
        metric.process({}, [dict(img_path='y/1.jpg', pred_sem_seg=labels)])
