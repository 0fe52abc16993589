"""The parts behind the command lines that are quicker to test by themselves."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import DataLoader

from mnv2_backbone.data.images import LoadImage, SkippedImagesHook, UnreadableImageError
from mnv2_backbone.errors import UserError
from mnv2_backbone.network.checkpoint import CheckpointError, find_resume_point, read_checkpoint
from mnv2_backbone.training.cpu import BFloat16OptimWrapper
from mnv2_backbone.training.options import apply_options
from mnv2_backbone.training.reproducible import ReproducibleHook
from mnv2_backbone.training.run import DueValidationHook
from mnv2_backbone.training.saving import AtomicCheckpointHook, AtomicLocalBackend

# --- checkpoints


def test_what_mmengine_saves_is_read_and_getattr_is_not(tmp_path: Path) -> None:
    path = tmp_path / 'x.pth'
    history = HistoryBuffer([1.0, 2.0, 3.0], [1, 1, 1])
    content = dict(history=history, score=np.float64(0.5), ids=np.arange(3), name=np.str_('a'))
    torch.save(dict(content, meta=dict(epoch=1, config='raise SystemExit')), path)
    read = read_checkpoint(path)
    assert read['history'].statistics('mean') == 2.0
    assert read['score'] == 0.5 and read['ids'].tolist() == [0, 1, 2] and read['name'] == 'a'
    assert read['meta'] == dict(epoch=1)  # mmengine would execute the config on resuming

    class Attribute:
        def __reduce__(self) -> tuple:
            return getattr, (HistoryBuffer, '__init__')

    torch.save(Attribute(), path)
    with pytest.raises(CheckpointError, match=r'more than weights \(builtins.getattr'):
        read_checkpoint(path)
    path.write_text('not a checkpoint')
    with pytest.raises(CheckpointError, match='not a PyTorch checkpoint'):
        read_checkpoint(path)


def test_resume_point_is_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    assert find_resume_point(tmp_path) is None
    for epoch in (9, 10):
        torch.save({'epoch': epoch}, tmp_path / f'epoch_{epoch}.pth')
    (tmp_path / 'epoch_11.pth').write_bytes((tmp_path / 'epoch_10.pth').read_bytes()[:-10])
    for pointer in ('', str(tmp_path / 'epoch_11.pth'), '/elsewhere/epoch_10.pth'):
        (tmp_path / 'last_checkpoint').write_text(pointer)
        assert find_resume_point(tmp_path) == str(tmp_path / 'epoch_10.pth')
    (tmp_path / 'other').mkdir()
    torch.save({'epoch': 9}, tmp_path / 'other/epoch_9.pth')  # of the folder that this one was copied from
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'other/epoch_9.pth'))
    assert find_resume_point(tmp_path) == str(tmp_path / 'epoch_9.pth')


@pytest.mark.parametrize('content', [[1, 2], torch.zeros(2), dict(state_dict=None), dict(state_dict=[1])])
def test_files_without_a_state_dict_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='x.pth is a PyTorch file without a state dict'):
        read_checkpoint(tmp_path / 'x.pth')


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, path = AtomicLocalBackend(), tmp_path / 'new' / 'epoch_1.pth'
    backend.put(b'old', path)

    def full_disk(descriptor: int) -> None:
        raise OSError('no space left')

    monkeypatch.setattr('os.fsync', full_disk)
    with pytest.raises(OSError, match='no space'):
        backend.put(b'new', path)
    assert path.read_bytes() == b'old'
    assert [p.name for p in path.parent.iterdir()] == ['epoch_1.pth']


@pytest.mark.parametrize('keep', [1, 2])
def test_outdated_checkpoints_go_after_the_new_one_is_saved(keep: int, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    class Runner(SimpleNamespace):
        def save_checkpoint(self, out_dir: str, filename: str, *args: object, **kw: object) -> None:
            Path(out_dir, filename).touch()
            seen.append(sorted(p.name for p in tmp_path.glob('*.pth')))

    hub = MessageHub.get_instance(f'test_{tmp_path}')
    runner = Runner(work_dir=str(tmp_path), message_hub=hub, rank=0)
    hook = AtomicCheckpointHook(interval=1, max_keep_ckpts=keep)
    hook.out_dir, hook.keep_ckpt_ids = str(tmp_path), deque([], keep)
    hook.file_backend = AtomicLocalBackend()
    for step in (1, 2, 3, 3):  # the last epoch is saved again when it is the best
        hook._save_checkpoint_with_step(runner, step, {})
    kept = [f'epoch_{i}.pth' for i in (1, 2, 3)]
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == kept[-keep:]
    assert seen[2] == kept[-keep - 1 :], 'removed before the new one was there'
    assert hub.get_info('keep_ckpt_ids') == [1, 2, 3][-keep:]
    assert hook.max_keep_ckpts == keep and isinstance(hook, CheckpointHook)


def test_the_best_checkpoint_goes_after_a_better_one_is_saved(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    class Runner(SimpleNamespace):
        iter = 0

        def save_checkpoint(self, out_dir: str, filename: str, **kw: object) -> None:
            if self.epoch == 5:
                raise OSError('no space left')
            Path(out_dir, filename).touch()
            seen.append(sorted(p.name for p in Path(out_dir).glob('*.pth')))

    earlier, folder = tmp_path / 'earlier/best_mIoU_epoch_1.pth', tmp_path / 'new'
    for path in (earlier.parent, folder):
        path.mkdir()
    earlier.touch()
    hub = MessageHub.get_instance(f'best_{tmp_path}')
    runner = Runner(work_dir=str(folder), message_hub=hub, rank=0, logger=logging.getLogger('best'))
    hook = AtomicCheckpointHook(interval=1, save_best='mIoU', rule='greater')
    hook.out_dir, hook.file_backend, hook.best_ckpt_path = str(folder), AtomicLocalBackend(), str(earlier)
    for epoch, score in ((2, 0.5), (3, 0.6), (4, 0.4)):
        runner.epoch = epoch
        hook._save_best_checkpoint(runner, dict(mIoU=score))
    assert seen == [['best_mIoU_epoch_2.pth'], ['best_mIoU_epoch_2.pth', 'best_mIoU_epoch_3.pth']]
    runner.epoch = 5
    with pytest.raises(OSError, match='no space'):
        hook._save_best_checkpoint(runner, dict(mIoU=0.9))
    assert [p.name for p in folder.iterdir()] == ['best_mIoU_epoch_3.pth'] and earlier.exists()
    assert Path(str(hook.best_ckpt_path)).name == 'best_mIoU_epoch_3.pth'


@pytest.mark.parametrize(('epoch', 'due'), [(0, False), (1, False), (2, True), (3, False), (4, True), (5, True)])
def test_a_validation_that_is_due_is_done_when_a_run_is_resumed(epoch: int, due: bool) -> None:
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    loop._epoch, loop._max_epochs, loop.val_begin, loop.val_interval = epoch, 5, 1, 2
    done: list[int] = []
    validation = SimpleNamespace(run=lambda: done.append(epoch))
    DueValidationHook().before_train(SimpleNamespace(train_loop=loop, val_loop=validation))
    assert bool(done) == due


# --- reproducible augmentation


class Draw(BaseTransform):
    """Replaces a sample by its random numbers; gives some up at their first attempt."""

    def transform(self, results: dict) -> dict | None:
        if results['sample_idx'] % 3 == 1:
            return None
        return dict(index=results['sample_idx'], drawn=[np.random.rand(), torch.rand(()).item()])


def draws(workers: int, epochs: list[int], **loader: object) -> list[tuple]:
    """What the epochs draw, sample by sample."""
    parts = [BaseDataset(serialize_data=False, lazy_init=True, pipeline=[Draw()]) for _ in range(2)]
    for part in parts:
        part.data_list, part._fully_initialized = [{} for _ in range(7)], True
    hook = ReproducibleHook()
    data = DataLoader(ConcatDataset(parts), batch_size=2, num_workers=workers, collate_fn=list, **loader)
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    runner = SimpleNamespace(seed=3, train_dataloader=data, train_loop=loop, epoch=0)
    hook.before_train(runner)
    result = []
    for epoch in epochs:
        runner.epoch = epoch
        hook.before_train_epoch(runner)
        result += [(s['index'], *s['drawn']) for batch in data for s in batch]
    return result


def test_augmentation_depends_on_epoch_and_sample_alone() -> None:
    alone = draws(0, [0, 1, 2])
    assert len({drawn for _, drawn, _ in alone}) == len(alone) == 3 * 14, 'draws repeat'
    assert alone[14:28] == draws(0, [1])
    assert alone == draws(3, [0, 1, 2])
    assert alone == draws(2, [0, 1, 2], persistent_workers=True)


def test_repeated_data_sets_are_refused() -> None:
    inner = BaseDataset(serialize_data=False, lazy_init=True, pipeline=[])
    inner.data_list, inner._fully_initialized = [{}], True
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    loader = DataLoader(RepeatDataset(inner, 3))
    runner = SimpleNamespace(seed=0, train_dataloader=loader, train_loop=loop)
    with pytest.raises(UserError, match='RepeatDataset.*more epochs'):
        ReproducibleHook().before_train(runner)


# --- images


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize('kind', ['.jpg', '.png'])
@pytest.mark.parametrize('harm', ['cut', 'empty', 'text', 'missing'])
def test_damaged_images_are_named_or_skipped(kind: str, harm: str, picture: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / f'bad{kind}'
    data = cv2.imencode(kind, picture)[1].tobytes()
    harmed = dict(cut=data[: len(data) // 2], empty=b'', text=b'no image', missing=None)[harm]
    if harmed is not None:
        path.write_bytes(harmed)
    with pytest.raises(UnreadableImageError, match=str(path)):
        LoadImage()(dict(img_path=str(path)))
    skipping = LoadImage(skip_corrupt=True)
    skipping.skipped_log = tmp_path / 'skipped.txt'
    assert skipping(dict(img_path=str(path))) is None
    assert (tmp_path / 'skipped.txt').read_text().startswith(f'{path}: ')


def test_whole_images_are_loaded(picture: np.ndarray, tmp_path: Path) -> None:
    for kind in ('.png', '.bmp', '.jpg'):
        path = tmp_path / f'good{kind}'
        # Some cameras append notes of their own.
        path.write_bytes(cv2.imencode(kind, picture)[1].tobytes() + b'maker' * 100)
        loaded = LoadImage(to_float32=True)(dict(img_path=str(path)))
        assert loaded['img'].shape == (40, 60, 3) and loaded['img'].dtype == np.float32
        assert loaded['img_shape'] == loaded['ori_shape'] == (40, 60)
        if kind != '.jpg':
            np.testing.assert_array_equal(loaded['img'], picture)


def test_a_folder_of_nothing_but_damage_ends() -> None:
    loader = LoadImage(skip_corrupt=True)
    data = BaseDataset(serialize_data=False, lazy_init=True, pipeline=[loader])
    data.data_list = [dict(img_path=f'no/such/{i}.jpg') for i in range(3)]
    data._fully_initialized = True
    with pytest.raises(UnreadableImageError, match='100 images in a row'):
        data[0]


def test_skipped_images_are_reported_once_and_counted(tmp_path: Path) -> None:
    messages: list[str] = []
    log = tmp_path / 'skipped_images.txt'
    log.write_text('of an earlier run\n')
    loader = LoadImage(skip_corrupt=True)
    data = BaseDataset(serialize_data=False, lazy_init=True, pipeline=[loader])
    runner = SimpleNamespace(
        work_dir=str(tmp_path),
        rank=0,
        iter=0,
        train_dataloader=SimpleNamespace(dataset=data),
        logger=SimpleNamespace(warning=messages.append),
    )
    hook = SkippedImagesHook()
    hook.before_train(runner)
    for name in ('a.jpg', 'b.jpg', 'a.jpg'):
        loader(dict(img_path=name))
        hook.after_train_iter(runner, 0)
    hook.after_train(runner)
    assert [m.split()[3] for m in messages[:-1]] == ['a.jpg:', 'b.jpg:']
    assert messages[-1].startswith('2 image(s)') and str(log) in messages[-1]


# --- options and checks


def test_a_new_data_root_reaches_every_copy_of_it() -> None:
    cfg = Config(
        dict(
            data_root='data/coco/',
            train_dataloader=dict(dataset=dict(data_root='data/coco/', x=('data/coco', 1))),
            val_dataloader=dict(dataset=dict(data_root='data/coco_small/')),
            val_evaluator=[dict(ann_file='data/coco/annotations/val.json')],
        )
    )
    apply_options(cfg, {'data_root': '/mnt/c', 'train_dataloader.batch_size': 2})
    assert cfg.train_dataloader == dict(dataset=dict(data_root='/mnt/c/', x=('/mnt/c', 1)), batch_size=2)
    assert cfg.val_dataloader.dataset.data_root == 'data/coco_small/'
    assert cfg.val_evaluator[0].ann_file == '/mnt/c/annotations/val.json'
    elsewhere = Config(dict(data_root='data/', train_dataloader=dict(dataset=dict(data_root='mine/'))))
    with pytest.raises(UserError, match='data_root: no path of the config lies below its data_root'):
        apply_options(elsewhere, {'data_root': 'x'})


def test_options_may_add_what_configs_leave_out() -> None:
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper'), model=dict(init_cfg=None)))
    apply_options(
        cfg,
        {
            'optim_wrapper.clip_grad.max_norm': 3,
            'model.init_cfg.type': 'Pretrained',
            'randomness.seed': 1,
            'load_from': 'x.pth',
        },
    )
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=3)
    assert cfg.model.init_cfg == dict(type='Pretrained')
    assert cfg.randomness.seed == 1 and cfg.load_from == 'x.pth'


def test_bfloat16_is_used_where_the_device_has_it(monkeypatch) -> None:
    layer = torch.nn.Linear(2, 2)

    def dtype_of(capabilities: dict, **options) -> torch.dtype:
        monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: capabilities, raising=False)
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
        wrapper = BFloat16OptimWrapper(optimizer=torch.optim.SGD(layer.parameters(), 0.1), **options)
        with wrapper.optim_context(layer):
            return layer(torch.rand(1, 2)).dtype

    assert dtype_of({'avx512_bf16': True}) == torch.bfloat16
    assert dtype_of({'avx2': True}) == torch.float32
    assert dtype_of({'avx2': True}, enabled=True) == torch.bfloat16
    assert dtype_of({'avx512_bf16': True}, enabled=False) == torch.float32


def test_freed_memory_is_kept() -> None:
    code = """
import resource
import torch
from mnv2_backbone.training.cpu import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**24)  # 64 MiB, 16384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fresh = faults()
assert keep_freed_memory()
faults()
print(fresh, faults())
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fresh, kept = map(int, done.stdout.split())
    assert kept < fresh / 10
