"""mmcv's operators by torchvision: what the compiled ones compute, and where they are offered.

tests/operators.npz holds what mmcv 2.1.0 compiled returns; ``python tests/test_operators.py`` writes it there.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmcv', reason='mmcv is not installed: pip install .[mm]')

from mmcv import ops

import mnv2_backbone
from mnv2_backbone import operators

STORED = Path(__file__).with_name('operators.npz')


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed + sum(shape)).rand(*shape).astype(np.float32))


def gradients(output: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad((output * random(*output.shape)).sum(), inputs)


def suppressed() -> Iterator[tuple[str, torch.Tensor]]:
    boxes = torch.cat([random(150, 2), random(150, 2, seed=1) + 1], 1) * 20
    boxes[:, 2:] = boxes[:, :2] + random(150, 2, seed=2) * 20
    scores, classes = random(150), (random(150, seed=3) * 2).long()
    for offset in (0, 1):
        for name, options in (
            ('nms', dict(type='nms', iou_threshold=0.5, offset=offset)),
            ('max', dict(type='nms', iou_threshold=0.3, max_num=9, score_threshold=0.2, offset=offset)),
            *((f'soft {m}', dict(type='soft_nms', iou_threshold=0.3, method=m, offset=offset, min_score=0.05))
              for m in ('naive', 'linear', 'gaussian')),
        ):  # fmt: skip
            detections, kept = ops.batched_nms(boxes, scores, classes, options)
            yield f'{name} offset {offset} detections', detections
            yield f'{name} offset {offset} kept', kept


def aligned() -> Iterator[tuple[str, torch.Tensor]]:
    corners = random(8, 2) * 70 - 5
    rois = torch.cat([(random(8, 1) * 2).floor(), corners, corners + random(8, 2, seed=1) * 40], 1)
    for sampling, align in ((0, True), (2, True), (0, False)):
        x = random(2, 3, 17, 21).requires_grad_()
        y = ops.roi_align(x, rois, (3, 4), 0.25, sampling, 'avg', align)
        yield f'roi_align {sampling} {align}', y
        yield f'roi_align {sampling} {align} gradient', gradients(y, x)[0]


def deformed() -> Iterator[tuple[str, torch.Tensor]]:
    for stride, padding, dilation, groups, deform in ((1, 1, 1, 1, 1), ((2, 1), (1, 2), (1, 2), 2, 2)):
        size = [(n + 2 * p - 2 * d - 1) // s + 1 for n, s, p, d in zip(
            (6, 7), *(v if isinstance(v, tuple) else (v, v) for v in (stride, padding, dilation)))]  # fmt: skip
        x, weight, bias = random(2, 4, 6, 7), random(6, 4 // groups, 3, 3) - 0.5, random(6)
        offset, mask = random(2, deform * 18, *size) * 6 - 3, random(2, deform * 9, *size)
        leaves = [leaf.requires_grad_() for leaf in (x, offset, weight, mask, bias)]
        options = (stride, padding, dilation, groups, deform)
        for name, inputs, y in (
            ('v1', leaves[:3], ops.deform_conv2d(x, offset, weight, *options)),
            ('v2', leaves[:4], ops.modulated_deform_conv2d(x, offset, mask, weight, None, *options)),
            ('v2 with bias', leaves, ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *options)),
        ):
            yield f'{name} groups {groups}', y
            for leaf, grad in zip(('x', 'offset', 'weight', 'mask', 'bias'), gradients(y, *inputs)):
                yield f'{name} groups {groups} gradient of {leaf}', grad


def results() -> dict[str, np.ndarray]:
    cases = (*suppressed(), *aligned(), *deformed())
    return {name: value.detach().numpy() for name, value in cases}


def test_the_results_are_those_of_the_compiled_operators() -> None:
    stored, found = dict(np.load(STORED)), results()
    assert stored.keys() == found.keys() and len(found) > 40
    for name, value in found.items():
        np.testing.assert_allclose(value, stored[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_any_memory_format() -> None:
    x, rois = random(2, 3, 17, 21), torch.tensor([[1.0, 3, 4, 50, 60]])
    last = x.contiguous(memory_format=torch.channels_last)
    output = [torch.zeros(1, 3, 3, 4) for _ in range(2)]
    options = dict(aligned_height=3, aligned_width=4, spatial_scale=0.25, sampling_ratio=0, pool_mode=1, aligned=True)
    for given, filled in zip((x, last), output):
        operators.roi_align_forward(given, rois, filled, x, x, **options)
    assert output[0].any() and torch.equal(*output)


def pooled_by_the_kernel(x: np.ndarray, roi: np.ndarray, size: tuple[int, int], scale: float) -> np.ndarray:
    """``roi_pool_forward_cuda_kernel`` of mmcv, which has none for CPUs, in its own words."""
    number, x1, y1, x2, y2 = roi
    out = np.zeros((x.shape[1], *size), np.float32)
    w, h = (x2 + 1) * scale - x1 * scale, (y2 + 1) * scale - y1 * scale
    for i, j in np.ndindex(size) if w > 0 and h > 0 else ():
        top, left = np.floor(i * h / size[0] + y1 * scale), np.floor(j * w / size[1] + x1 * scale)
        bottom, right = np.ceil((i + 1) * h / size[0] + y1 * scale), np.ceil((j + 1) * w / size[1] + x1 * scale)
        rows, columns = (slice(int(max(a, 0)), int(max(b, 0))) for a, b in ((top, bottom), (left, right)))
        part = x[int(number), :, rows, columns]
        out[:, i, j] = part.max((1, 2)) if part.size else 0
    return out


def test_roi_pool() -> None:
    x = (random(2, 3, 17, 21) - 0.5).requires_grad_()
    corners = random(12, 2) * 70 - 20
    rois = torch.cat([(random(12, 1) * 2).floor(), corners, corners + random(12, 2, seed=1) * 40 - 4], 1)
    options = dict(pooled_height=3, pooled_width=4, spatial_scale=0.25)
    output, argmax = torch.zeros(12, 3, 3, 4), torch.zeros(12, 3, 3, 4, dtype=torch.int)
    operators.roi_pool_forward(x.detach(), rois, output, argmax, **options)
    expected = [pooled_by_the_kernel(x.detach().numpy(), roi, (3, 4), 0.25) for roi in rois.numpy()]
    np.testing.assert_array_equal(output, np.stack(expected))
    # each output has its gradient from the one value that it is
    grad_x, grad = torch.zeros_like(x), random(12, 3, 3, 4)
    operators.roi_pool_backward(grad, rois, argmax, grad_x, **options)
    flat = x.detach()[rois[:, 0].long()].flatten(2)
    picked = flat.gather(2, argmax.flatten(2).long().clamp(min=0)).view_as(output)
    assert torch.equal(torch.where(argmax >= 0, picked, 0), output)
    torch.testing.assert_close(grad_x.sum(), (grad * (argmax >= 0)).sum())


def test_focal_loss_is_mmdets() -> None:
    """mmcv has this one for GPUs only; MMDetection has it in Python for CPUs."""
    focal = pytest.importorskip('mmdet.models.losses.focal_loss')
    logits, target = (random(40, 5) * 8 - 4).requires_grad_(), (random(40) * 6).long()
    chosen = torch.nn.functional.one_hot(target, 6)[:, :5]
    expected = focal.py_sigmoid_focal_loss(logits, chosen, gamma=1.5, alpha=0.3, reduction='none')
    output, grad, none = torch.zeros_like(logits), torch.zeros_like(logits), logits.new_empty(0)
    with torch.no_grad():
        operators.sigmoid_focal_loss_forward(logits, target, none, output, gamma=1.5, alpha=0.3)
        operators.sigmoid_focal_loss_backward(logits, target, none, grad, gamma=1.5, alpha=0.3)
    torch.testing.assert_close(output, expected.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), logits)[0])


@pytest.mark.parametrize('name', ['nms_match', 'ms_deform_attn_forward'])
def test_others_are_missed_when_they_are_called(name: str) -> None:
    with pytest.raises(NotImplementedError, match=rf'mmcv\.ops: {name} needs a compiled mmcv.*docs/installed\.md'):
        getattr(operators, name)(torch.zeros(1))


def test_options_that_torchvision_lacks_are_refused() -> None:
    zeros = torch.zeros(1, 1, 4, 4)
    options = dict(aligned_height=2, aligned_width=2, spatial_scale=1.0, sampling_ratio=0, pool_mode=0, aligned=True)
    with pytest.raises(NotImplementedError, match="pool_mode='max'"):
        operators.roi_align_forward(zeros, torch.zeros(1, 5), zeros, zeros, zeros, **options)
    with pytest.raises(NotImplementedError, match='weights of classes'):
        operators.sigmoid_focal_loss_forward(
            torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), torch.ones(3), torch.zeros(2, 3), gamma=2.0, alpha=0.5
        )


def python(code: str, folder: Path, *options: str) -> str:
    command = [sys.executable, *options, '-c', code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


class TestOffered:
    """In interpreters of their own, from another folder."""

    NMS = """
from mmcv.ops import nms
import torch
def kept(_=None):
    boxes = torch.tensor([[0., 0., 10., 10.], [1., 1., 10., 10.], [20., 20., 30., 30.]])
    return nms(boxes, torch.tensor([0.5, 0.9, 0.7]), 0.5)[1].tolist()
"""

    @pytest.mark.parametrize('first', ['mmdet.apis, mmseg.apis', 'mnv2_backbone, mmcv.ops'])
    def test_whatever_is_imported_first(self, first: str, tmp_path: Path) -> None:
        assert python(f'import {first}\n{self.NMS}\nprint(kept())', tmp_path) == '[1, 2]'

    def test_in_spawned_workers(self, tmp_path: Path) -> None:
        pool = "from multiprocessing import get_context\nprint(get_context('spawn').Pool(1).map(kept, [0])[0])"
        tmp_path.joinpath('work.py').write_text(f"{self.NMS}\nif __name__ == '__main__':\n    " + '\n    '.join(
            pool.splitlines()))  # fmt: skip
        done = subprocess.run([sys.executable, 'work.py'], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.split('\n')[-2] == '[1, 2]', done.stderr

    def test_a_compiled_module_stays_in_use(self, tmp_path: Path) -> None:
        tmp_path.joinpath('_ext.py').write_text('nms = 1')
        code = f"""
import mmcv, mnv2_backbone
mmcv.__path__ = [{str(tmp_path)!r}, *mmcv.__path__]
import mmcv._ext
print(mmcv._ext.__file__)
"""
        assert python(code, tmp_path) == str(tmp_path / '_ext.py')

    def test_once(self) -> None:
        mnv2_backbone.finder.offer_operators()
        assert sys.meta_path.count(mnv2_backbone.finder) == 1
        assert mnv2_backbone.finder.find_spec('mmcv.other') is None

    def test_starting_python_imports_nothing(self, tmp_path: Path) -> None:
        code = "import sys; print([name for name in ('mnv2_backbone', 'mmengine', 'torch') if name in sys.modules])"
        assert python(code, tmp_path) == '[]'


if __name__ == '__main__':
    import mmcv._ext

    assert mmcv._ext.__file__.endswith('.so'), 'mmcv is not compiled'
    np.savez_compressed(STORED, **results())
