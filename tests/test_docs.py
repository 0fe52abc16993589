"""The documentation, tried out: configs build, programs run, command lines parse, links and paths lead somewhere.

In ``README.md`` and ``docs/`` a block of Python that has ``_base_`` or ``model = dict(`` is a config; its first line
may be a comment with the file's name, which other blocks then use. Any other is a program, and a block of text after
it is what it prints. ``<!-- not run: reason -->`` before a block leaves it out.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DATASETS, MODELS, DefaultScope, init_default_scope
from mmengine.utils import is_installed

pytest.importorskip('mmdet', reason='the examples use MMDetection: pip install .[mm]')
from mmdet.datasets import CocoDataset

import mnv2_backbone
from mnv2_backbone.__main__ import COMMANDS
from mnv2_backbone.deployment.backends import FORMATS
from mnv2_backbone.deployment.export import ExportOptions, export
from mnv2_backbone.training import command_line as cli
from mnv2_backbone.training.options import load_config
from mnv2_backbone.training.preflight import check_data
from mnv2_backbone.weights.names import WEIGHTS

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
FENCE = re.compile(r'(?P<skip><!-- not run: .+? -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$', re.M | re.S)


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    kind: str
    text: str
    left_out: bool
    after: Block | None = None

    @property
    def is_config(self) -> bool:
        return self.kind == 'python' and ('_base_' in self.text or 'model = dict(' in self.text)

    @property
    def file(self) -> str:
        named = re.match(r'# (\w+\.py)\n', self.text)
        return named[1] if named else f'{Path(self.page).stem}_{self.line}.py'


@cache
def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        content, last = page.read_text(), None
        for match in FENCE.finditer(content):
            line = content.count('\n', 0, match.start('kind')) + 1
            last = Block(page.name, line, match['kind'], match['text'], bool(match['skip']), last)
            found.append(last)
    return [block for block in found if not block.left_out]


def each(wanted):
    chosen = [block for block in blocks() if wanted(block)]
    return pytest.mark.parametrize('block', chosen, ids=[f'{block.page}:{block.line}' for block in chosen])


def write_configs(folder: Path) -> None:
    for block in blocks():
        if block.is_config:
            (folder / block.file).write_text(block.text.replace('/path/to/mnv2_backbone/', f'{ROOT}/'))


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """The current folder is one with our configs and those of all pages; the scope is put back."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    write_configs(tmp_path)
    monkeypatch.chdir(tmp_path)
    with DefaultScope.overwrite_default_scope('mmengine'):
        yield tmp_path


# --- links and paths


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page):
    content = page.read_text()
    for target in re.findall(r'\]\(([^)#]+?)(?:#[^)]*)?\)', content):
        assert target.startswith(('http://', 'https://')) or (page.parent / target).exists(), target
    for path in re.findall(r'(?<![\w/.-])(?:configs|docs|tests|tools)/[\w*./-]*\w', content):
        assert any(ROOT.glob(path)), path
    for name in re.findall(r'mnv2://([\w.-]*\w)', content):
        assert name in WEIGHTS, name


# --- configs


@each(lambda block: block.is_config)
def test_a_config_builds_a_model_whose_parts_fit(block, configs):
    from mmengine.config import Config

    if 'mmpretrain::' in block.text:
        pytest.importorskip('mmpretrain')
    for package in set(re.findall(r'(\w+)::', block.text)) - {'mnv2_backbone'}:
        if not is_installed(MODULE2PACKAGE[package]):  # as the page says
            pytest.skip(f'this mmengine does not find the configs of {package} by name')
    cfg = Config.fromfile(block.file)
    assert cfg.pretty_text  # it can be written to the work folder
    cfg.model.backbone.init_cfg = None  # its weights would be fetched
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    if 'type' not in cfg.model:  # a part of a config
        net = MODELS.build(cfg.model.backbone).eval()
        assert len(net(torch.zeros(1, 3, 64, 64))) == len(net.out_channels)
        return
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))  # as mmengine's runner does
    model = MODELS.build(cfg.model).eval()
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 64), mode='tensor')
    preprocessor = model.data_preprocessor
    assert preprocessor.mean.flatten().tolist() == preprocessor.std.flatten().tolist() == [127.5] * 3  # -1 to 1


def test_the_table_of_maps_is_true():
    rows = re.findall(r'^\| (?:name|channels|stride) \|(.*)\|$', (ROOT / 'docs/backbone.md').read_text(), re.M)
    names, channels, strides = ([cell.strip() for cell in row.split('|')] for row in rows)
    points = mnv2_backbone.feature_info(out_indices=range(8))
    assert [(x.name, str(x.channels), str(x.stride)) for x in points] == [*zip(names, channels, strides)]


# --- programs

SMALL = f"""
_base_ = '{ROOT}/configs/ssdlite_mnv2_coco_tf.py'
model = dict(
    backbone=dict(out_indices=('layer_2', 'layer_3')),
    neck=dict(extra_channels=(32,)),
    bbox_head=dict(anchor_generator=dict(num_levels=3)),
    test_cfg=dict(nms_pre=100, max_per_img=30))
test_pipeline = _base_.test_pipeline
test_pipeline[1] = dict(test_pipeline[1], scale=(64, 64))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
"""


@pytest.fixture(scope='module')
def workshop(tmp_path_factory):
    """A folder with what the programs take for granted: the detector in a few layers, its files, a picture."""
    folder = tmp_path_factory.mktemp('workshop')
    (folder / 'configs').mkdir()
    (folder / 'configs/ssdlite_mnv2_coco_tf.py').write_text(SMALL)
    write_configs(folder)
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8), (150, 110))
    cv2.imwrite(str(folder / 'photo.jpg'), picture)
    cfg = load_config(str(folder / 'configs/ssdlite_mnv2_coco_tf.py'))
    with DefaultScope.overwrite_default_scope('mmdet'), torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        for branch in model.bbox_head.cls_convs:  # clear cases, as after training
            torch.nn.init.normal_(branch[1].weight, std=0.5)
        meta = dict(dataset_meta=dict(classes=CocoDataset.METAINFO['classes']))
        torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'ssdlite-coco.pth')
    return folder


@pytest.fixture
def stand_in(workshop, monkeypatch):
    """Weights by name are random ones, nothing is fetched; the current folder is the workshop."""
    monkeypatch.chdir(workshop)
    monkeypatch.setattr(mnv2_backbone, 'config_path', lambda name: f'configs/{name}')
    monkeypatch.setattr('mnv2_backbone.weights.fetch.obtain', lambda name: workshop / f'{name}.pth')
    monkeypatch.setattr('mnv2_backbone.deployment.deploy.run_with', lambda backend, network, *_: network)
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield workshop


def printed_by(block: Block) -> str | None:
    return next((x.text for x in blocks() if x.after is block and x.kind == 'text'), None)


PROGRAMS = [block for block in blocks() if block.kind == 'python' and not block.is_config]
ALONE = ('onnxruntime', 'openvino')


def run(block: Block) -> dict:
    space: dict = {'__name__': block.file}
    exec(compile(block.text, f'{block.page}:{block.line}', 'exec'), space)
    return space


def is_alone(block: Block) -> bool:
    return any(f'import {library}' in block.text for library in ALONE)


def needs_tflite(block: Block) -> bool:
    return '.tflite' in block.text


def needs_onnx(block: Block) -> bool:
    return 'Predictor.from_file' in block.text


def needs_model_api(block: Block) -> bool:
    return 'model_api' in block.text


FILES = (is_alone, needs_tflite, needs_onnx, needs_model_api)


@each(lambda block: block in PROGRAMS and not any(needs(block) for needs in FILES))
def test_a_program_runs_and_prints_what_the_page_says(block, stand_in, capsys):
    run(block)
    wanted = printed_by(block)
    assert wanted is None or capsys.readouterr().out == wanted


def test_the_program_for_boards_runs(stand_in, capsys):
    pytest.importorskip('litert_torch')
    (block,) = [block for block in PROGRAMS if needs_tflite(block) and 'mediapipe' not in block.text]
    cfg = load_config('configs/ssdlite_mnv2_coco_tf.py')
    export(cfg, 'mnv2://ssdlite-coco', ExportOptions('tflite', nms=True), Path('board.tflite'))
    assert run(block)['found']['boxes'].shape[::2] == (1, 4)
    assert re.search(r'^\d+ 0\.\d+ \[0\.\d+, ', capsys.readouterr().out, re.M)


def test_exported_files_run_in_programs_without_this_package(stand_in, capsys):
    pytest.importorskip('onnxruntime', reason='exported files need pip install .[export]')
    import onnx

    path = Path('ssdlite_mnv2_coco_tf.onnx')
    with pytest.MonkeyPatch.context() as patch:
        for format in ('onnx', 'openvino'):
            cfg = load_config('configs/ssdlite_mnv2_coco_tf.py')
            out = path.with_suffix(FORMATS[format].suffix)
            export(cfg, 'mnv2://ssdlite-coco', ExportOptions(format, nms=True), out)
            patch.setattr('mnv2_backbone.deployment.graph.to_onnx', lambda *_: onnx.load(path))
    programs = [block for block in PROGRAMS if is_alone(block)]
    results = []
    for block in programs:
        imported = {name.name for node in ast.walk(ast.parse(block.text)) for name in getattr(node, 'names', ())}
        assert imported <= {'json', 'cv2', 'numpy', *ALONE}
        results.append(run(block))
        assert re.search(r'^[a-z ]+ 0\.\d+', capsys.readouterr().out, re.M)  # a class and its score
    assert len(results) == len(ALONE)
    for name in ('boxes', 'scores', 'labels'):
        assert results[0][name].shape[:2] == (1, 30)
        np.testing.assert_allclose(results[0][name], results[1][name], atol=0.05)
    (block,) = [block for block in PROGRAMS if needs_onnx(block)]
    assert len(run(block)['found']) == (results[0]['scores'] > 0).sum()
    if find_spec('model_api'):  # make test installs it
        (block,) = [block for block in PROGRAMS if needs_model_api(block)]
        assert len(run(block)['found'].scores) == (results[1]['scores'] > 0.4).sum()
    described = (ROOT / 'docs/deploy.md').read_text()
    manifest = json.loads(next(x.value for x in onnx.load(path).metadata_props if x.key == 'mnv2_backbone'))
    for key in (*manifest, *manifest['recipe']):
        assert f'`{key}`' in described, key


# --- command lines


class Parsed(Exception):
    """Carries what a tool's parser made of its arguments, before the tool does anything."""


def parse(tool: str, arguments: list[str]) -> tuple[argparse.Namespace, dict]:
    original = argparse.ArgumentParser.parse_args

    def stop(parser, args=None, namespace=None):
        raise Parsed(original(parser, args, namespace))

    space = runpy.run_path(str(ROOT / f'tools/{tool}.py'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, 'parse_args', stop)
        patch.setattr(sys, 'argv', [f'{tool}.py', *arguments])
        with pytest.raises(Parsed) as parsed:
            space['main']()
    return parsed.value.args[0], space


def commands(block: Block) -> list[list[str]]:
    lines = block.text.replace('\\\n', ' ').splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def check_python(words: list[str]) -> dict[str, str]:
    """``tools/X.py ARGUMENTS``: the tool knows them, and what they name is there.

    Returns:
        The last checkpoint that a training leaves, by the folder it is in.
    """
    tool, arguments = Path(words[0]).stem, words[1:]
    args, space = parse(tool, arguments)
    path, cfg = getattr(args, 'config', None), None
    if path and not path.isupper():  # CONFIG stands for any
        cfg = load_config(path, getattr(args, 'cfg_options', None))
    if tool == 'export':
        options = ExportOptions(args.format, args.precision, args.calib, args.nms)
        assert args.out is None or args.out.suffix == FORMATS[options.format].suffix
    if tool == 'benchmark':
        space['check'](args)
    folder = f'work_dirs/{Path(path or tool).stem}'
    return {folder: f'{folder}/epoch_{cfg.train_cfg.max_epochs}.pth'} if tool == 'train' and cfg else {}


def check_distributed(script: str, arguments: list[str], variables: dict[str, str], folder: Path) -> dict[str, str]:
    """``tools/dist_X.sh``: with a python that only says what it was called with."""
    stub = folder / 'bin/python'
    stub.parent.mkdir(exist_ok=True)
    stub.write_text('#!/bin/sh\nif [ "$1" = -c ]; then echo 8; else printf "%s\\n" "$@"; fi\n')
    stub.chmod(0o755)
    env = {**os.environ, **variables, 'PATH': f'{stub.parent}{os.pathsep}{os.environ["PATH"]}'}
    done = subprocess.run([ROOT / script, *arguments], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    called = done.stdout.splitlines()
    at = next(i for i, word in enumerate(called) if word.endswith('.py'))
    launcher = called[:at]
    for name, value in variables.items():
        assert name == 'CUDA_VISIBLE_DEVICES' or any(word.endswith(f'={value}') for word in launcher), name
    return check_python(called[at:])


@each(lambda block: block.kind == 'bash')
def test_command_lines_are_understood(block, configs):
    made: dict[str, str] = {}  # the last checkpoint by the folder it is in
    for words in commands(block):
        assert all(made.get(os.path.dirname(word), word) == word for word in words)
        variables = dict(word.split('=', 1) for word in words[: next(
            i for i, word in enumerate(words) if not re.match(r'[A-Z_]+=', word))])  # fmt: skip
        words = words[len(variables) :]
        if words[:2] == ['mnv2', '--version']:
            continue
        if words[0] == 'mnv2':
            words[:2] = ['python', f'tools/{COMMANDS[words[1]][0]}.py']
        tools = [i for i, word in enumerate(words) if re.fullmatch(r'tools/\w+\.(py|sh)', word)]
        if tools and words[tools[0]].endswith('.sh'):
            made |= check_distributed(words[0], words[1:], variables, configs)
        elif tools:
            made |= check_python(words[tools[0] :])
        elif words[0] == 'make':
            targets = [word for word in words[1:] if '=' not in word]
            assert all(re.search(rf'^{word}:', (ROOT / 'Makefile').read_text(), re.M) for word in targets)
        elif words[0] == 'pip':
            setup = ConfigParser()
            setup.read(ROOT / 'setup.cfg')
            for extras in re.findall(r'(?:^|\s)(?:\.|mnv2_backbone)\[([\w,]+)\]', ' '.join(words)):
                assert set(extras.split(',')) <= set(setup['options.extras_require']), extras


@each(
    lambda block: (
        block.kind == 'text'
        and block.after is not None
        and block.after.kind == 'bash'
        and 'mnv2 describe' in block.after.text
    )
)
def test_a_network_is_described_as_the_page_says(block, configs, monkeypatch, capsys):
    (words,) = commands(block.after)
    monkeypatch.setattr(sys, 'argv', words[1:])
    assert runpy.run_path(str(ROOT / f'tools/{words[1]}.py'))['main']() == 0
    described = capsys.readouterr().out
    assert all(line in described for line in block.text.splitlines())


# --- your own data


def write_boxes(folder: Path, split: str, count: int, names: tuple[str, ...]) -> None:
    (folder / split).mkdir(parents=True)
    images = [dict(id=i, file_name=f'{i:06}.jpg', width=64, height=48) for i in range(count)]
    box = dict(bbox=[8, 8, 20, 16], area=320, iscrowd=0)
    boxes = [dict(box, id=i + 1, image_id=i, category_id=1 - i % 2) for i in range(count)]
    for image in images:
        cv2.imwrite(str(folder / split / image['file_name']), np.full((48, 64, 3), 90, np.uint8))
    categories = [dict(id=i, name=name) for i, name in enumerate(names)]
    content = dict(images=images, annotations=boxes, categories=categories)
    (folder / f'{split}.json').write_text(json.dumps(content))


def write_xml(data) -> None:
    """An image, time and again, for a ``VOCDataset`` of a config, with an object of each class."""
    root = Path(data.data_root)
    for folder in ('JPEGImages', 'Annotations', Path(data.ann_file).parent):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / data.ann_file).write_text('one\n' * 16)  # a batch
    cv2.imwrite(str(root / 'JPEGImages/one.jpg'), np.full((48, 64, 3), 90, np.uint8))
    box = '<bndbox><xmin>9</xmin><ymin>9</ymin><xmax>40</xmax><ymax>40</ymax></bndbox>'
    things = ''.join(f'<object><name>{name}</name>{box}</object>' for name in reversed(data.metainfo.classes))
    size = '<size><width>64</width><height>48</height></size>'
    (root / 'Annotations/one.xml').write_text(f'<annotation>{size}{things}</annotation>')


def write_masks(folder: Path) -> None:
    for split in ('train', 'val'):
        for kind in ('images', 'masks'):
            (folder / kind / split).mkdir(parents=True)
        for name in 'abcdefgh':
            cv2.imwrite(str(folder / f'images/{split}/{name}.jpg'), np.zeros((48, 64, 3), np.uint8))
            mask = np.arange(64, dtype=np.uint8)[None].repeat(48, 0) // 22
            cv2.imwrite(str(folder / f'masks/{split}/{name}.png'), mask)


@pytest.fixture
def own_data(configs, monkeypatch):
    for name, value in (('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1'), ('LOCAL_RANK', '0')):  # the tools set them
        monkeypatch.setenv(name, value)
    write_boxes(configs / 'my_data', 'train', 20, ('cat', 'unicorn'))
    write_boxes(configs / 'my_data', 'val', 4, ('cat', 'unicorn'))
    write_masks(configs / 'my_masks')
    return configs


def sample(config: str, number: int = 0):
    """A sample of the data that a config trains on, which passes the checks."""
    cfg = load_config(config)
    check_data(cfg, ['train', 'val', 'test'])
    init_default_scope(cfg.default_scope)
    return DATASETS.build(cfg.train_dataloader.dataset)[number]['data_samples']


def test_data_laid_out_as_the_pages_say_pass_the_checks(own_data):
    assert sample('my_detector.py').gt_instances.labels.tolist() == [1]  # the unicorn
    # A random crop may leave a class out, ten do not.
    masks = [sample('my_segmenter.py').gt_sem_seg.data for _ in range(10)]
    assert {label for mask in masks for label in mask.unique().tolist()} >= {0, 1, 2}
    of_xml = [block.file for block in blocks() if block.is_config and 'ImageSets/Main' in block.text]
    assert of_xml
    for config in of_xml:
        cfg = load_config(config)
        for part in ('train', 'val'):
            write_xml(cfg[f'{part}_dataloader'].dataset)
        number = len(cfg.train_dataloader.dataset.metainfo.classes)
        assert sample(config).gt_instances.labels.tolist() == list(range(number))[::-1]


def test_mistakes_are_told_in_the_words_of_the_page(own_data, capsys):
    data = own_data / 'my_data'

    def train(*options: str, config: str = 'my_detector.py') -> None:
        assert cli.train([config, *(('--cfg-options', *options) if options else ())]) == 2

    data.rename(own_data / 'elsewhere')
    train()
    (own_data / 'elsewhere').rename(data)
    train('model.bbox_head.num_classes=3')
    train('train_dataloder.batch_size=8')
    (data / 'train/000003.jpg').unlink()
    train()
    shutil.rmtree(data)
    write_boxes(data, 'train', 2, ('cat', 'dog'))
    train()
    mask = cv2.imread('my_masks/masks/train/b.png', cv2.IMREAD_UNCHANGED)
    cv2.imwrite('my_masks/masks/train/b.png', np.full_like(mask, 7))
    train(config='my_segmenter.py')
    for name in 'abcdefgh':
        cv2.imwrite(f'my_masks/masks/train/{name}.png', np.where(mask > 0, np.uint8(255), mask))
    train(config='my_segmenter.py')
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    page = (ROOT / 'docs/checks.md').read_text()
    assert sorted(told) == sorted(re.findall(r'^error: .*$', page, re.M))
