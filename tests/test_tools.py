"""The command lines, run as a user types them: on the toy data set, small and few."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import BaseLoop, CheckpointLoader

pytest.importorskip('mmdet', reason='training a detector needs MMDetection: pip install .[mm]')

from toy.dataset import write_toy_dataset

from mnv2_backbone.errors import UserError, WeightsError
from mnv2_backbone.network.checkpoint import read_checkpoint
from mnv2_backbone.training import command_line as cli
from mnv2_backbone.training.options import load_config, stored_config
from mnv2_backbone.training.prepare import prepare_testing
from mnv2_backbone.weights.hook import CheckedLoadHook

ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / 'configs/ssdlite_mnv2_demo.py')
EPOCHS = 3
BATCH = 4


@pytest.fixture(scope='module')
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 training pictures, one of them cut off."""
    folder = write_toy_dataset(tmp_path_factory.mktemp('data') / 'toy', train=13, val=4)
    picture = folder / 'train/000003.jpg'
    picture.write_bytes(picture.read_bytes()[:-2000])
    return folder


def find(node: object, kind: str, path: str = '') -> Iterator[str]:
    """Yields the dotted keys of the parts of a config that are of a type."""
    if isinstance(node, dict) and node.get('type') == kind:
        yield path
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    for name, child in pairs:
        if isinstance(child, (dict, list)):
            yield from find(child, kind, f'{path}.{name}'.lstrip('.'))


@cache
def small() -> dict[str, object]:
    """Options that make the demo small, whatever its pipeline and schedule look like."""
    cfg = Config.fromfile(CONFIG)
    values: dict[str, object] = {
        'model.backbone.widen_factor': 0.35,
        'model.backbone.init_cfg': None,
        'train_dataloader.batch_size': BATCH,
        'train_dataloader.drop_last': True,
        'train_cfg.max_epochs': EPOCHS,
        'train_cfg.val_interval': EPOCHS,
        'optim_wrapper.type': 'OptimWrapper',
        'optim_wrapper.optimizer.type': 'SGD',
        'optim_wrapper.optimizer.lr': 0.01,
        # Batches this small and a net this fresh multiply rounding errors; short steps keep them small.
        'optim_wrapper.clip_grad.max_norm': 0.1,
        'default_hooks.logger.interval': 1,
    }
    for part in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        values |= {f'{key}.scale': '(96,96)' for key in find(cfg[part], 'Resize', part)}
    for part in ('val_dataloader', 'test_dataloader'):
        values |= {f'{part}.num_workers': 0, f'{part}.persistent_workers': False}
    for number, scheduler in enumerate(cfg.param_scheduler):
        length = EPOCHS if scheduler.get('by_epoch', True) else 4
        keys = [key for key in ('end', 'T_max') if key in scheduler]
        values |= {f'param_scheduler.{number}.{key}': length for key in keys}
    return values


def options(toy: Path, **changes: object) -> list[str]:
    """``--cfg-options`` for a small demo; ``a__b=1`` changes the option ``a.b``."""
    named = {name.replace('__', '.'): value for name, value in changes.items()}
    values = {**small(), 'data_root': toy, **named}
    return ['--cfg-options', *(f'{name}={value}' for name, value in values.items())]


NO_WORKERS = dict(train_dataloader__num_workers=0, train_dataloader__persistent_workers=False)


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    hidden = {name: value for name, value in os.environ.items() if not name.startswith('TORCH_FORCE')}
    return {**hidden, 'PYTHONPATH': str(ROOT), 'PATH': path, 'OMP_NUM_THREADS': '1'}


def call(*command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a tool; with ``check`` it has to succeed."""
    line = [str(part) for part in command]
    if line[0].endswith('.py'):
        line.insert(0, sys.executable)
    done = subprocess.run(line, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 or not check, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def losses(work_dir: Path, run: int = -1) -> dict[int, float]:
    """The logged loss of each iteration, of the n-th run in a folder."""
    logs = sorted(work_dir.glob('2*/vis_data/scalars.json'))
    lines = [json.loads(line) for line in logs[run].read_text().splitlines()]
    return {line['step']: line['loss'] for line in lines if 'loss' in line}


def same_weights(a: Path, b: Path, **tolerance: float) -> None:
    a, b = (read_checkpoint(path)['state_dict'] for path in (a, b))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **tolerance, msg=lambda m, n=name: f'{n}: {m}')


@pytest.fixture(scope='module')
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An uninterrupted training with two workers: its folder and what it printed."""
    work_dir = tmp_path_factory.mktemp('run')
    done = call('tools/train.py', CONFIG, '--work-dir', work_dir, *options(toy))
    return work_dir, done.stdout + done.stderr


def test_training_reports_progress_and_skips_a_corrupt_image(run: tuple[Path, str]) -> None:
    work_dir, output = run
    assert 'eta: 0:' in output and 'Average Precision' in output
    assert len(losses(work_dir)) == EPOCHS * (13 // BATCH)
    assert output.count('skipped an image: ') == 1
    assert '1 image(s) were skipped' in output
    assert 'train_dataloader.dataset: 13 images, 13 used (0 have no boxes' in output
    assert '000003.jpg' in (work_dir / 'skipped_images.txt').read_text()


def test_a_second_run_does_not_replace_the_checkpoints_of_the_first(run, toy, capsys):
    work_dir, _ = run
    before = {path.name: path.stat().st_mtime_ns for path in work_dir.glob('*.pth')}
    assert cli.train([CONFIG, '--work-dir', str(work_dir), *options(toy)]) == 2
    assert f'it holds epoch_{EPOCHS}.pth of an earlier run; add --resume' in capsys.readouterr().err
    assert before == {path.name: path.stat().st_mtime_ns for path in work_dir.glob('*.pth')}


def test_a_resumed_run_keeps_its_schedule(run, toy, capsys):
    line = [CONFIG, '--work-dir', str(run[0]), '--resume', *options(toy, **{'optim_wrapper.optimizer.lr': 1e-5})]
    assert cli.train(line) == 2
    assert 'a resumed run keeps the optimizer and the schedule of' in capsys.readouterr().err


def test_weights_alone_cannot_be_resumed(run, toy, tmp_path, capsys):
    torch.save(dict(state_dict=read_checkpoint(run[0] / 'epoch_1.pth')['state_dict']), tmp_path / 'w.pth')
    line = [CONFIG, '--work-dir', str(tmp_path / 'work'), '--resume', str(tmp_path / 'w.pth'), *options(toy)]
    assert cli.train(line) == 2
    assert 'w.pth holds weights only, nothing to resume; start from it with' in capsys.readouterr().err
    assert not (tmp_path / 'work').exists()


def test_weights_alone_are_enough_to_predict(run, toy, tmp_path):
    photo, weights = next((toy / 'val').glob('*.jpg')), run[0] / f'epoch_{EPOCHS}.pth'
    call('tools/infer.py', photo, '--weights', weights, '--score-thr', 0, '--out-dir', tmp_path)
    assert '"score"' in (tmp_path / f'{photo.stem}.json').read_text()
    given = load_config(CONFIG, {**small(), 'data_root': str(toy)})
    stored = stored_config(str(weights))
    for part in ('model', 'test_evaluator'):
        assert json.dumps(stored[part], sort_keys=True) == json.dumps(given[part], sort_keys=True)


def test_a_stored_config_is_data(tmp_path):
    for text, words in (
        ('model = open("x")', 'is not plain data'),
        (None, 'holds no config'),
        ('x = 1', 'has no model'),
    ):
        torch.save(dict(state_dict={}, meta=dict(cfg=text)), tmp_path / 'x.pth')
        with pytest.raises(UserError, match=words):
            stored_config(str(tmp_path / 'x.pth'))


def test_a_batch_of_one_image_is_refused_with_the_remedy(toy, tmp_path):
    changes = dict(NO_WORKERS, train_dataloader__batch_size=1)
    done = call('tools/train.py', CONFIG, '--work-dir', tmp_path, *options(toy, **changes), check=False)
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert 'error: batch norm cannot train on a batch of 1 image: set train_dataloader.batch_size' in done.stderr


def test_a_worker_that_cannot_hand_over_a_batch_ends_the_run() -> None:
    """As with a full /dev/shm; Python drops the batch, and PyTorch waits for it forever."""
    code = """
from multiprocessing.queues import Queue
from torch.utils.data import DataLoader
from mnv2_backbone.training.run import _REMEDIES, _end_worker
Queue._on_queue_feeder_error = staticmethod(_end_worker)
try:
    list(DataLoader([1, 2], num_workers=1, collate_fn=lambda batch: lambda: batch, multiprocessing_context='fork'))
except RuntimeError as error:
    print([remedy for part, remedy in _REMEDIES.items() if part in str(error)])
"""
    done = call(sys.executable, '-c', code)
    assert '/dev/shm' in done.stdout and 'a data worker cannot hand over a batch' in done.stderr


def load_checked(training: bool, resume: bool, checkpoint: dict, **options: object) -> None:
    """Calls the hook for a segmenter of two classes, dog and cat."""
    model = torch.nn.ModuleDict(dict(decode_head=torch.nn.ModuleDict(dict(conv_seg=torch.nn.Conv2d(4, 2, 1)))))
    loader = SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=('dog', 'cat'))))
    runner = SimpleNamespace(
        model=model,
        _train_loop=Mock(BaseLoop),  # in a test EarlyStoppingHook builds it
        _test_loop={} if training else Mock(BaseLoop),
        _resume=resume,
        train_dataloader=loader,
        test_dataloader=loader,
        logger=SimpleNamespace(info=lambda text: None),
    )
    checkpoint.setdefault('state_dict', {key: torch.rand_like(x) for key, x in model.state_dict().items()})
    CheckedLoadHook(**options).after_load_checkpoint(runner, checkpoint)


STARTS = pytest.mark.parametrize(('training', 'resume'), [(True, True), (True, False), (False, False)])


@STARTS
def test_other_classes_are_transferred_in_training_and_refused_elsewhere(training, resume):
    state = {'decode_head.conv_seg.weight': torch.rand(2, 4, 1, 1), 'decode_head.conv_seg.bias': torch.rand(2)}
    checkpoint = dict(state_dict=dict(state), meta=dict(dataset_meta=dict(classes=('cat', 'dog'))))
    if training and not resume:
        load_checked(training, resume, checkpoint)
        bias = 'decode_head.conv_seg.bias'
        assert torch.equal(checkpoint['state_dict'][bias], state[bias].flip(0))
        return
    with pytest.raises(WeightsError, match='load_from instead of resume' if resume else 'test on its own classes'):
        load_checked(training, resume, checkpoint)
    checkpoint['meta']['dataset_meta']['classes'] = ('Dog', 'cat')  # the same, as it is compared
    load_checked(training, resume, checkpoint)


@STARTS
def test_parts_start_fresh_when_a_training_starts_and_are_loaded_elsewhere(training, resume):
    checkpoint: dict = {}
    load_checked(training, resume, checkpoint, fresh=['decode_head'])
    assert bool(checkpoint['state_dict']) == (not training or resume)


def test_a_damaged_checkpoint_is_refused(run, toy, tmp_path, capsys):
    damaged = tmp_path / 'damaged.pth'
    data = bytearray((run[0] / 'epoch_1.pth').read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    damaged.write_bytes(data)
    line = [CONFIG, '--work-dir', str(tmp_path / 'w'), '--resume', str(damaged), *options(toy)]
    assert cli.train(line) == 2 and cli.test([CONFIG, str(damaged), *options(toy)]) == 2
    assert capsys.readouterr().err.count('it is damaged: wrong checksum of') == 2


def test_a_loss_that_is_not_finite_ends_training_before_it_is_saved(toy, tmp_path):
    draft, foreign = tmp_path / '.999999999.epoch_1.pth', tmp_path / f'.{os.getpid()}.epoch_1.pth'
    for path in (draft, foreign):
        path.touch()
    values = {'optim_wrapper.optimizer.lr': 1e30, 'param_scheduler.0.end': 1}
    done = call('tools/train.py', CONFIG, '--work-dir', tmp_path, *options(toy, **values, **NO_WORKERS), check=False)
    assert done.returncode == 2 and 'training stopped, earlier checkpoints are kept' in done.stderr, done.stderr
    assert not draft.exists() and foreign.exists()  # of a run that was killed; of one that is running
    assert not list(tmp_path.glob('epoch_*.pth'))


def test_killed_and_resumed_training_equals_an_uninterrupted_one(
    run: tuple[Path, str], toy: Path, tmp_path: Path
) -> None:
    command = [sys.executable, 'tools/train.py', CONFIG, '--work-dir', str(tmp_path)]
    process = subprocess.Popen(
        [*command, *options(toy)],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if 'Epoch(train) [2][1/3]' in line:
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / 'epoch_2.pth').exists()
    # What a kill amid saving leaves without a replacement in one step: a newer file that is not
    # whole.
    (tmp_path / 'epoch_2.pth').write_bytes((tmp_path / 'epoch_1.pth').read_bytes()[:-1000])
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))

    time.sleep(1)  # logs are named by the second
    call(*command[1:], '--resume', *options(toy, **NO_WORKERS))
    whole, resumed = losses(run[0]), losses(tmp_path)
    assert resumed == {step: loss for step, loss in whole.items() if step > 3}
    same_weights(run[0] / f'epoch_{EPOCHS}.pth', tmp_path / f'epoch_{EPOCHS}.pth', rtol=0, atol=0)


def test_two_processes_equal_one(run: tuple[Path, str], toy: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    changes = dict(NO_WORKERS, train_dataloader__batch_size=BATCH // 2, train_cfg__max_epochs=1)
    changes['model__backbone__with_cp'] = True  # which repeats norms that are synchronized
    call(
        'env', f'PORT={port}', 'tools/dist_train.sh', CONFIG, 2, '--work-dir', tmp_path,
        *options(toy, **changes),
    )  # fmt: skip
    one, two = losses(run[0]), losses(tmp_path)
    assert len(two) == 3
    assert two == pytest.approx({step: one[step] for step in two}, rel=1e-3)
    same_weights(run[0] / 'epoch_1.pth', tmp_path / 'epoch_1.pth', rtol=1e-3, atol=3e-4)


def scores(output: str) -> list[str]:
    return re.findall(r'Average (?:Precision|Recall) .*', output)


def test_testing_prints_the_table_and_saves_predictions(run: tuple[Path, str], toy: Path, tmp_path: Path) -> None:
    checkpoint = run[0] / f'epoch_{EPOCHS}.pth'
    results, pictures = tmp_path / 'results.pkl', tmp_path / 'pictures'
    done = call(
        'tools/test.py', CONFIG, checkpoint, '--work-dir', tmp_path / 'work', '--out', results,
        '--show-dir', pictures, *options(toy),
    )  # fmt: skip
    assert 'Average Precision' in done.stdout
    assert len(pickle.loads(results.read_bytes())) == 4
    assert len(list(pictures.glob('*.jpg'))) == 4
    folder, config = tmp_path / 'coco', tmp_path / 'config.py'
    # What concerns training alone changes nothing, and its images are not read.
    stop = "dict(type='EarlyStoppingHook', monitor='coco/bbox_mAP')"
    config.write_text(f"""_base_ = '{CONFIG}'
custom_hooks = [dict(type='mnv2_backbone.CheckedLoadHook', fresh=['bbox_head']), {stop}]
""")
    shutil.copytree(toy, tmp_path / 'toy')
    (tmp_path / 'toy/annotations/instances_train.json').unlink()
    again = call('tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'work', *options(tmp_path / 'toy'))
    assert 'no EarlyStoppingHook' in again.stdout
    assert scores(again.stdout) == scores(done.stdout)
    call(
        'tools/test.py', CONFIG, checkpoint, '--work-dir', tmp_path / 'work', '--tta',
        '--out', folder, *options(toy),
    )  # fmt: skip
    assert {'image_id', 'bbox', 'score'} <= json.loads((folder / 'predictions.bbox.json').read_text())[0].keys()


@pytest.mark.parametrize('config', ['ssdlite_mnv2_finetune.py', 'deeplabv3lite_mnv2_voc_short.py'])
def test_test_time_augmentation_sees_images_as_the_test_does(config: str, tmp_path: Path) -> None:
    changed = {'test_dataloader.dataset.pipeline.1.scale': (480, 352)}
    args = SimpleNamespace(config=str(ROOT / 'configs' / config), cfg_options=changed, launcher='none')
    nothing = dict.fromkeys(('show', 'show_dir', 'out', 'tensorboard', 'batch_size'))
    args.__dict__.update(nothing, tta=True, checkpoint='mnv2://ssdlite-coco', work_dir=str(tmp_path))
    cfg, _ = prepare_testing(args)
    load, resize, augment = cfg.test_dataloader.dataset.pipeline
    assert (resize['type'].rpartition('.')[2] in ('Resize', 'TFResize'), resize['scale']) == (True, (480, 352))
    kinds = [[step['type'] for step in steps] for steps in augment['transforms']]
    assert kinds == [['RandomFlip'] * 2, ['LoadAnnotations'], [f'Pack{"Seg" if "deeplab" in config else "Det"}Inputs']]
    assert [step['prob'] for step in augment['transforms'][0]] == [0, 1]


def break_annotations(toy: Path, **changes: object) -> None:
    path = toy / 'annotations/instances_train.json'
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


MISTAKES = {
    'config': (lambda toy: ['configs/no_such.py'], ['configs/no_such.py does not exist']),
    'data folder': (
        lambda toy: ['data_root=nowhere/toy'],
        ['train_dataloader.dataset.data_root', 'nowhere/toy', 'mnv2 toy'],
    ),
    'image folder': (
        lambda toy: shutil.rmtree(toy / 'train'),
        ['train_dataloader.dataset.data_prefix.img', 'toy/train', 'data_root='],
    ),
    'annotation file': (
        lambda toy: (toy / 'annotations/instances_val.json').unlink(),
        ['val_dataloader.dataset.ann_file', 'instances_val.json does not exist'],
    ),
    'not JSON': (
        lambda toy: (toy / 'annotations/instances_train.json').write_text('<annotation/>'),
        ['instances_train.json is not JSON', 'images, annotations and categories'],
    ),
    'not COCO': (
        lambda toy: (toy / 'annotations/instances_train.json').write_text('{"shapes": []}'),
        ["has no list 'images'", 'images, annotations and categories'],
    ),
    'no boxes': (
        lambda toy: break_annotations(toy, annotations=[{'image_id': 1, 'caption': 'a ring'}]),
        ['annotations[0].id is missing, must be int'],
    ),
    'missing images': (
        lambda toy: [path.unlink() for path in sorted((toy / 'train').glob('*'))[:4]],
        ['4 of 13 files', 'train/000003.jpg and 1 more', 'data_prefix'],
    ),
    'unknown class': (
        lambda toy: ['train_dataloader.dataset.metainfo.classes=(ring,unicorn)'],
        ['unicorn', 'ellipse, ring, rectangle', 'metainfo'],
    ),
    'classes as text': (
        lambda toy: ['train_dataloader.dataset.metainfo.classes=ring'],
        ["metainfo.classes is the text 'ring'", "('ring', )"],
    ),
    'number of classes': (
        lambda toy: ['model.bbox_head.num_classes=80'],
        ['model.bbox_head.num_classes is 80', 'has 8 classes'],
    ),
    'type of the data set': (
        lambda toy: ['train_dataloader.dataset.type=CocoDatset'],
        ['train_dataloader.dataset.type', "'CocoDatset'"],
    ),
    'no full batch': (
        lambda toy: ['train_dataloader.batch_size=24'],
        ['13 images do not fill one batch of 24', 'drop_last=False'],
    ),
    'mistyped key': (lambda toy: ['model.bckbone.with_cp=True'], ['no model.bckbone', 'did you mean backbone?']),
    'mistyped top-level key': (
        lambda toy: ['train_dataloder.batch_size=2'],
        ['no train_dataloder', 'train_dataloader'],
    ),
    'key without effect': (
        lambda toy: ['max_epochs=3'],
        ['max_epochs', 'no effect', 'set it where it went: ', 'train_cfg.max_epochs'],
    ),
    'list element': (lambda toy: ['param_scheduler.7.end=3'], ['param_scheduler is a list', 'by a number from 0 to ']),
    'mistyped option of a class': (lambda toy: ['model.backbone.widen_fctor=0.5'], ["'widen_fctor'"]),
    'checkpoint to start from': (lambda toy: ['load_from=no_such.pth'], ['checkpoint no_such.pth does not exist']),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_ends_in_one_message(
    mistake: str, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')  # to be restored: the tools set it
    monkeypatch.setenv('LOCAL_RANK', '0')
    broken = Path(shutil.copytree(toy, tmp_path / 'toy'))
    act, expected = MISTAKES[mistake]
    extra = act(broken)
    arguments = [CONFIG, '--work-dir', str(tmp_path / 'work'), *options(broken)]
    if isinstance(extra, list) and isinstance(extra[0], str):
        if '=' in extra[0]:
            arguments += extra
        else:
            arguments[0] = extra[0]
    assert cli.train(arguments) == 2
    errors = [x for x in capsys.readouterr().err.splitlines() if x.startswith('error: ')]
    assert len(errors) == 1
    for part in expected:
        assert part in errors[0]
    # Only a mistake that shows when the model is built comes after the folder is made.
    assert (tmp_path / 'work').exists() == (mistake == 'mistyped option of a class')


def test_mixed_precision_on_the_cpu_with_tensorboard(toy: Path, tmp_path: Path) -> None:
    pytest.importorskip('tensorboard', reason='--tensorboard needs TensorBoard')
    changes = dict(NO_WORKERS, train_cfg__max_epochs=1, train_cfg__val_interval=2)
    call(
        'tools/train.py', CONFIG, '--work-dir', tmp_path, '--amp', '--auto-scale-lr',
        '--tensorboard', *options(toy, **changes),
    )  # fmt: skip
    assert len(losses(tmp_path)) == 3
    assert list(tmp_path.glob('2*/vis_data/events.out.tfevents.*'))


class Malicious:
    """Runs a command when it is unpickled in the usual way."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple:
        return os.system, (f'touch {self.proof}',)


def test_a_checkpoint_cannot_run_code(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    proof, checkpoint = tmp_path / 'proof', tmp_path / 'stranger.pth'
    torch.save({'state_dict': {}, 'meta': Malicious(proof)}, checkpoint)

    def assert_refused(status: int, stderr: str) -> None:
        assert status == 2
        assert not proof.exists()
        assert 'Traceback' not in stderr
        errors = [line for line in stderr.splitlines() if line.startswith('error: ')]
        assert len(errors) == 1 and 'stranger.pth was refused' in errors[0]

    done = call('tools/test.py', CONFIG, checkpoint, *options(toy), check=False)
    assert_refused(done.returncode, done.stderr)

    # The well-known way around torch's refusal must not open the tools.
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '0')
    work_dir = tmp_path / 'work'
    train = [CONFIG, '--work-dir', str(work_dir)]
    for arguments in (
        [*train, '--resume', str(checkpoint), *options(toy)],
        [*train, *options(toy, load_from=checkpoint)],
    ):
        assert_refused(cli.train(arguments), capsys.readouterr().err)
    assert not work_dir.exists()
    with pytest.raises(UserError, match='stranger.pth was refused'):  # as init_cfg=Pretrained does
        CheckpointLoader.load_checkpoint(str(checkpoint), 'cpu')
    with pytest.raises(pickle.UnpicklingError):  # as a fork of mmengine does
        torch.load(checkpoint, weights_only=False)
    assert not proof.exists()

    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD')
    torch.load(checkpoint, weights_only=False)
    assert proof.exists(), 'the file is harmless: the test shows nothing'
