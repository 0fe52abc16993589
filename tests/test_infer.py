"""``tools/infer.py`` as a user types it, beside MMDetection's own inferencer."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, place
from PIL import Image
from pycocotools.coco import COCO


def infer(*arguments):
    command = [sys.executable, 'tools/infer.py', *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def photos(real_data, tmp_path):
    folder = tmp_path / 'photos'
    (folder / 'more').mkdir(parents=True)
    shutil.copy(real_data / 'data/coco/val2017/000000000139.jpg', folder / 'room.jpg')
    shutil.copy(real_data / 'data/coco/val2017/000000000802.jpg', folder / 'more/kitchen.jpg')
    (folder / 'broken.jpg').write_bytes(b'not a picture')
    return folder


def test_a_folder_is_detected_drawn_and_described(real_data, cache, photos, tmp_path):
    place(real_data, cache, 'ssdlite-coco')
    out = tmp_path / 'out'
    done = infer(photos, '--out-dir', out, '--score-thr', 0.3)
    assert done.returncode == 1 and 'cannot read the image' in done.stdout and 'broken.jpg' in done.stdout, done.stderr
    assert '2 of 3 files done' in done.stdout
    found = json.loads((out / 'room.json').read_text())
    labels = {thing['label'] for thing in found['objects']}
    assert {'tv', 'chair', 'person'} <= labels
    drawn, photo = cv2.imread(str(out / 'room.jpg')), cv2.imread(str(photos / 'room.jpg'))
    changed = (cv2.absdiff(drawn, photo).max(2) > 60).mean()
    assert 0.001 < changed < 0.2
    assert (out / 'more/kitchen.json').is_file() and not list(out.rglob('broken*'))

    # MMDetection's own inferencer finds the same with the same config and weights
    code = f"""
import json
from mmdet.apis import DetInferencer
infer = DetInferencer('configs/ssdlite_mnv2_coco_tf.py', 'mnv2://ssdlite-coco', device='cpu', show_progress=False)
print(json.dumps(infer({str(photos / 'room.jpg')!r})['predictions'][0]))
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    theirs = json.loads(done.stdout.splitlines()[-1])
    for thing, score, box in zip(found['objects'], theirs['scores'], theirs['bboxes']):
        assert thing['score'] == pytest.approx(score, abs=1e-3)
        assert thing['box'] == pytest.approx(box, abs=0.2)


def test_a_video_gives_a_video_and_its_frames(real_data, cache, photos, tmp_path):
    place(real_data, cache, 'ssdlite-coco')
    photo = cv2.resize(cv2.imread(str(photos / 'room.jpg')), (320, 240))
    video = cv2.VideoWriter(str(tmp_path / 'clip.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 5.0, (320, 240))
    for shift in range(3):
        video.write(np.roll(photo, 10 * shift, axis=1))
    video.release()
    done = infer(tmp_path / 'clip.avi', '--out-dir', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    described = json.loads((tmp_path / 'out/clip.json').read_text())
    assert [frame['frame'] for frame in described['frames']] == [0, 1, 2] and described['fps'] == 5
    drawn = cv2.VideoCapture(str(tmp_path / 'out/clip.mp4'))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_what_goes_wrong_with_one_file_is_named_and_the_others_are_done(real_data, cache, photos, tmp_path):
    place(real_data, cache, 'ssdlite-coco')
    out, room = tmp_path / 'out', (photos / 'room.jpg').read_bytes()
    (photos / 'broken.jpg').write_bytes(room[:-2000])
    odd = os.fsencode(photos) + b'/caf\xe9.jpg'
    with open(odd, 'wb') as file:
        file.write(room)
    (out / 'more/kitchen.jpg').mkdir(parents=True)  # where a result should go
    (photos / 'notes.gif').touch()
    (photos / 'empty.jpg').touch()
    done = infer(photos, photos / 'more/kitchen.jpg', '--out-dir', out)
    assert '1 files are no images or videos: notes.gif' in done.stderr and 'empty.jpg: the file is empty' in done.stdout
    assert done.returncode == 1 and '2 of 5 files done' in done.stdout, done.stderr
    assert done.stdout.count('skipped: ') == 3
    assert 'broken.jpg: ' in done.stdout and 'Is a directory' in done.stdout
    assert (out / 'room.json').is_file() and os.path.exists(os.fsencode(out) + b'/caf\xe9.json')


def test_results_replace_neither_sources_nor_each_other(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    from files import find_sources

    from mnv2_backbone.errors import UserError

    for name in ('a.jpg', 'a.png', 'a_jpg.png', 'b.mp4', 'sub/b.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    sources = find_sources([str(tmp_path), str(tmp_path / 'sub')], tmp_path / 'out')
    assert len({source.name for source in sources}) == len(sources) == 5
    for out in (tmp_path / 'sub', tmp_path / 'sub/../sub'):
        with pytest.raises(UserError, match='b.jpg could be overwritten by results; name another folder'):
            find_sources([str(tmp_path / 'sub')], out)
    with pytest.raises(UserError, match='results would lie beside .*; name another folder'):
        find_sources([str(tmp_path)], tmp_path)  # where labels may be called a.jpg.json


def test_links_are_followed_once_and_those_to_nowhere_are_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    from files import find_sources

    for name in ('photos/a.jpg', 'elsewhere/b.jpg'):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / 'photos/linked').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'photos/up').symlink_to(tmp_path / 'photos')
    (tmp_path / 'photos/broken.jpg').symlink_to('/nowhere.jpg')
    sources = find_sources([str(tmp_path / 'photos')], tmp_path / 'out')
    assert [source.path.name for source in sources] == ['a.jpg', 'broken.jpg', 'b.jpg']


def test_a_video_that_could_not_be_written_replaces_nothing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    from files import FilePredictor, Source
    from mmengine.structures import InstanceData

    from mnv2_backbone.deployment.recipe import Recipe
    from mnv2_backbone.errors import UserError

    class Model:
        recipe, resizes = Recipe('detect', ('a',), ((0, 0, 0),), None), True

        def __call__(self, images):
            none = torch.zeros(0)
            return [InstanceData(bboxes=none.reshape(0, 4), scores=none, labels=none.long())]

    class Full:  # as on a full disk; not derived from OpenCV's, whose deallocator is for its own kind only
        fourcc = cv2.VideoWriter.fourcc

        def __init__(self, *arguments):
            self.real = real(*arguments)

        def write(self, image):
            pass

        def release(self):
            self.real.release()

    real = cv2.VideoWriter
    video = cv2.VideoWriter(str(tmp_path / 'clip.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 5.0, (64, 64))
    for _ in range(3):
        video.write(np.zeros((64, 64, 3), np.uint8))
    video.release()
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/clip.mp4').write_text('an earlier one')
    predictor = FilePredictor(Model(), tmp_path / 'out', 0.4)
    monkeypatch.setattr(cv2, 'VideoWriter', Full)
    with pytest.raises(UserError, match=r'clip.mp4 cannot be written: 0 of 3 frames'):
        list(predictor.predict_video(Source(tmp_path / 'clip.avi', Path('clip'))))
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['clip.mp4']
    assert (tmp_path / 'out/clip.mp4').read_text() == 'an earlier one'


def test_large_images_are_drawn_small_and_described_in_coco_s_format(real_data, cache, photos, tmp_path):
    place(real_data, cache, 'ssdlite-coco')
    room = cv2.imread(str(photos / 'room.jpg'))
    cv2.imwrite(str(tmp_path / 'large.jpg'), cv2.resize(room, (6000, 4000)))
    with Image.open(photos / 'room.jpg') as image:  # more pixels than OpenCV decodes
        Image.new('L', (40000, 30000)).save(tmp_path / 'huge.png')
        height, width = image.height, image.width
    options = ('--coco', tmp_path / 'all.json', '--out-dir', tmp_path / 'out')
    done = infer(tmp_path / 'large.jpg', photos / 'room.jpg', tmp_path / 'huge.png', *options)
    assert done.returncode == 1 and '2 of 3 files done' in done.stdout, done.stderr
    content = json.loads((tmp_path / 'all.json').read_text())
    assert [(x['width'], x['height']) for x in content['images']] == [(6000, 4000), (width, height)]
    coco = COCO(str(tmp_path / 'all.json'))
    assert len(coco.loadRes(content['annotations']).anns) == len(content['annotations']) > 4
    highest = [max(coco.imgToAnns[i], key=lambda x: x['score']) for i in (1, 2)]
    assert highest[0]['category_id'] == highest[1]['category_id']
    scale = np.array([6000 / width, 4000 / height] * 2)
    assert np.abs(highest[0]['bbox'] - scale * highest[1]['bbox']).max() < 200
    assert max(cv2.imread(str(tmp_path / 'out/large.jpg')).shape) == 1280


def test_a_segmenter_gives_an_indexed_mask(real_data, cache, tmp_path):
    place(real_data, cache, 'deeplabv3-voc')
    photo = real_data / 'data/VOCdevkit/VOC2012/JPEGImages/2007_000042.jpg'
    done = infer(photo, '--weights', 'mnv2://deeplabv3-voc', '--out-dir', tmp_path)
    assert done.returncode == 0, done.stderr
    mask = Image.open(tmp_path / '2007_000042.png')
    assert mask.mode == 'P'
    labels = np.asarray(mask)
    reference = np.load(real_data / 'reference/deeplabv3_tf_outputs/2007_000042.npz')['predictions']
    assert (labels == reference).mean() > 0.999
    classes = json.loads((tmp_path / '2007_000042.json').read_text())['classes']
    assert classes['train'] == pytest.approx((labels == 19).mean(), abs=1e-3)
    drawn, image = cv2.imread(str(tmp_path / '2007_000042.jpg')).astype(int), cv2.imread(str(photo)).astype(int)
    assert np.abs(drawn - image)[labels == 0].mean() < 8 < np.abs(drawn - image)[labels == 19].mean()  # not darkened
    # a photo of 12 megapixels is reduced to what the segmenter was trained on, and enlarged again
    cv2.imwrite(str(tmp_path / 'large.jpg'), cv2.resize(image.astype(np.uint8), (4000, 3000)))
    done = infer(tmp_path / 'large.jpg', '--weights', 'mnv2://deeplabv3-voc', '--out-dir', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    large = np.asarray(Image.open(tmp_path / 'out/large.png'))
    assert large.shape == (3000, 4000)
    reduced = cv2.resize(large, labels.shape[::-1], interpolation=cv2.INTER_NEAREST)
    assert (reduced == labels).mean() > 0.95


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['nowhere/*.jpg'], 'nowhere/*.jpg: does not exist'),
        (['README.md'], 'README.md: has no images'),
        (['x.jpg', '--score-thr', '2'], '--score-thr 2.0: allowed are numbers from 0 to 1'),
        (['x.jpg', '--config', 'configs/ssdlite_mnv2_voc.py'], '--config without --weights'),
        (['x.jpg', '--weights', 'mine.pth'], 'checkpoint mine.pth does not exist'),
        (['x.jpg', '--weights', 'mnv2://imagenet-1.0'], '--weights mnv2://imagenet-1.0: name their --config too'),
        (['x.jpg', '--max-size', '3'], '--max-size 3: allowed are integers from 32'),
        (
            ['docs/photos.jpg', '--coco', 'docs/photos.jpg'],
            '--coco docs/photos.jpg: a source, a result or a folder has',
        ),
        (['docs/photos.jpg', '--coco', 'outputs/photos.json'], '--coco outputs/photos.json: a source, a result'),
        (['docs/photos.jpg', '--out-dir', 'README.md/x'], '--out-dir: nothing can be written to README.md/x'),
    ],
)
def test_a_wrong_option_is_named(arguments, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['infer.py', *arguments])
    monkeypatch.chdir(ROOT)
    assert runpy.run_path('tools/infer.py')['main']() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ') and words in line
