"""The benchmark: processes that take turns, equal work for all, and the table of a real run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from speed import exports, inputs, ours, peers
from speed.measure import DIFFERENCES, boxes_differ, run_task
from speed.plot import draw_costs
from speed.variants import NAMES, Variant, variants
from speed.workers import Failed, Missing, Worker

from mnv2_backbone import MobileNetV2
from mnv2_backbone.training.cpu import multiplies_bfloat16

FAKES = '''
import os, subprocess, sys, threading, time


def sleeper(turns, folder, name, seconds, **_):
    """Notes when it computes; a thread of it, and a child, note that they run at all."""
    def note(kind, *values):
        with open(folder / kind, 'a') as file:
            file.write(' '.join([name, *map(str, values)]) + chr(10))

    def beat():
        while True:
            note('beats', time.monotonic())
            time.sleep(0.005)

    def step():
        start = time.monotonic()
        time.sleep(seconds)
        note('steps', start, time.monotonic())

    child = subprocess.Popen([sys.executable, '-c', 'import time; x = bytearray(50_000_000); time.sleep(600)'])
    note('children', child.pid)
    note('threads', os.environ['OMP_NUM_THREADS'])
    threading.Thread(target=beat, daemon=True).start()
    turns.loop(step, madds=1000, output=len(name))


def poor(turns, **_):
    import no_such_library


def broken(turns, **_):
    raise ValueError('out of order')


def dying(turns, **_):
    os._exit(3)


def large(turns, **_):
    turns.begin()
    os.kill(os.getpid(), 9)
'''


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / 'fake_variants.py').write_text(FAKES)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    return tmp_path


def read(path: Path) -> list[tuple[str, list[float]]]:
    return [(line.split()[0], [float(x) for x in line.split()[1:]]) for line in path.read_text().splitlines()]


def alive(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))


def test_variants_take_turns(fakes):
    rows_of = [
        Variant('backbone', 'ours-trained', 'fp32', 'fake_variants:sleeper', dict(name='a', seconds=0.02)),
        Variant('backbone', 'timm', 'fp32', 'fake_variants:poor'),
        Variant('backbone', 'mmseg', 'fp32', 'fake_variants:broken'),
        Variant('backbone', 'mmdet', 'fp32', 'fake_variants:dying'),
        Variant('backbone', 'ours-deployed', 'fp32', 'fake_variants:large'),
        Variant('backbone', 'torchvision', 'fp32', 'fake_variants:sleeper', dict(name='b', seconds=0.04)),
    ]
    common = dict(folder=fakes, device='cpu')
    rows, rate, lines = run_task(rows_of, common, threads=1, repeats=7, say=lambda line: None)

    assert lines == [
        'backbone: no timm, fp32: no_such_library is not installed',
        'backbone: mmseg, fp32 failed: ValueError: out of order',
        'backbone: mmdet, fp32 failed: the process ended with status 3',
        'backbone: ours-deployed, fp32 failed: the process ended with status -9: killed, as by a system that is short '
        'of memory',
    ]
    a, b = rows
    assert (a.name, b.name) == ('ours-trained', 'torchvision')
    assert 20 <= a.p10_ms <= a.median_ms <= a.p90_ms and b.p10_ms >= 40
    assert a.images_per_s == pytest.approx(1000 / a.median_ms)
    assert (b.speed, a.speed) == (1, pytest.approx(b.median_ms / a.median_ms))
    assert a.x_floor == pytest.approx(a.median_ms / 1000 / (1000 / rate))
    assert a.peak_mb > 50  # its child's
    assert (a.max_abs_diff, b.max_abs_diff) == (0, None)

    # 3 calls to warm up; then two rounds of 6 (7 are wanted, the first of each turn does not count), in turns.
    steps = read(fakes / 'steps')
    assert [name for name, _ in steps] == ['a'] * 3 + ['b'] * 3 + (['a'] * 6 + ['b'] * 6) * 2
    assert all(end <= start for (_, (_, end)), (_, (start, _)) in zip(steps, steps[1:]))

    # Nobody's threads run in another's turn.
    turns_of_b = [times for name, times in steps if name == 'b'][3:9]
    beats = [at for name, (at,) in read(fakes / 'beats') if name == 'a']
    assert len(beats) > 10
    assert not [at for at in beats if turns_of_b[0][0] <= at <= turns_of_b[-1][1]]
    assert gone([int(pid) for _, (pid,) in read(fakes / 'children')])
    assert read(fakes / 'threads') == [('a', [1]), ('b', [1])]


@pytest.mark.parametrize('nohup', ['SIG_DFL', 'SIG_IGN'])
def test_no_process_survives_a_killed_benchmark(nohup, fakes):
    code = (
        'import pathlib, signal, sys, time\n'
        f'signal.signal(signal.SIGHUP, signal.{nohup})\n'
        f'sys.path.insert(0, {str(ROOT / "tools/speed")!r})\n'
        'from workers import Worker\n'
        'folder = pathlib.Path(sys.argv[1])\n'
        "options = dict(folder=folder, name='a', seconds=0.001)\n"
        "worker = Worker('fake_variants:sleeper', options, 1, folder / 'log')\n"
        'worker.ready()\n'
        'print(worker._process.pid, flush=True)\n'
        'time.sleep(600)\n'
    )
    with subprocess.Popen([sys.executable, '-c', code, str(fakes)], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        leader = int(parent.stdout.readline())
        ((_, (child,)),) = read(fakes / 'children')
        assert alive(leader) and alive(int(child))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert gone([leader, int(child)])


@pytest.fixture(scope='module')
def backbone_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('backbone')
    torch.manual_seed(0)
    inputs._write_backbone(folder, folder)
    return folder


@pytest.mark.parametrize('name', peers.BACKBONES)
def test_all_backbones_compute_the_same(name, backbone_inputs):
    """With PyTorch's own padding ours is theirs: times are of the same work (MMSegmentation's ends earlier)."""
    our = MobileNetV2(out_indices='layer_18' if name == 'mmseg' else 'layer_19', padding='explicit').eval()
    theirs = peers.BACKBONES[name]()
    theirs.eval()
    for network in (our, theirs):
        peers.take_weights(network, backbone_inputs)
    x = torch.from_numpy(np.load(backbone_inputs / 'normalised.npy')[:1]).double()
    with torch.no_grad():
        found = theirs.double()(x)
        expected = our.double()(x)[0]
    found = found[0] if isinstance(found, tuple) else found
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected)


class Once:
    """Stands in for the turns: keeps the facts, and ends after one iteration."""

    def begin(self, **facts):
        self.facts = facts

    def loop(self, step, **facts):
        self.begin(**facts)
        step()


def test_exported_backbones_compute_the_same(backbone_inputs):
    outputs = {}
    onnx, openvino = (partial(ours.backbone_exported, format=format) for format in ('onnx', 'openvino'))
    for format, precision in (('onnx', 'fp32'), ('onnx', 'int8'), ('openvino', 'fp32'), ('openvino', 'bf16')):
        target = ours.exported_path(backbone_inputs, 'backbone', format, precision)
        exports.backbone(Once(), backbone_inputs, format, precision, target)
    for run, precision, tolerance in (
        (ours.backbone_trained, 'fp32', 0),
        (onnx, 'fp32', 1e-3),
        (onnx, 'int8', 2),
        (openvino, 'fp32', 1e-3),
        # without the instructions OpenVINO computes in float32, which is no row of the table
        *([(openvino, 'bf16', 1)] if multiplies_bfloat16('cpu') else []),
    ):
        turns = Once()
        run(turns, folder=backbone_inputs, device='cpu', precision=precision)
        outputs[run, precision] = output = turns.facts['output']
        assert (
            DIFFERENCES['backbone'](outputs[ours.backbone_trained, 'fp32'], output) <= tolerance
        )  # of values from 0 to 6
        assert len({x.tobytes() for x in outputs.values()}) == len(outputs)


@given(
    sizes=st.lists(st.tuples(st.integers(3, 6), st.integers(10, 14)), min_size=1, max_size=2),
    shared=st.booleans(),
    background=st.sampled_from([0, -1]),
    scores=st.sampled_from(['softmax', 'sigmoid']),
    threshold=st.sampled_from([0.001, 0.01, 0.02]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=12, deadline=None)
def test_detectors_have_the_same_number_of_candidates(sizes, shared, background, scores, threshold, seed):
    torch.manual_seed(seed)
    classes = peers.CLASSES + 1
    convs = [torch.nn.Conv2d(8, anchors * classes, 1) for anchors, _ in sizes[: 1 if shared else None]]
    maps = [torch.randn(1, 8, side, side) for _, side in sizes]
    call = lambda: [conv(x) for conv, x in zip(convs * (len(maps) if shared else 1), maps)]  # noqa: E731
    outputs = inputs.spread_logits(convs, call)
    inputs.thin_candidates(convs, outputs, background, threshold, scores)
    logits = torch.cat([x.permute(0, 2, 3, 1).reshape(-1, classes) for x in call()])
    found = logits.softmax(1) if scores == 'softmax' else logits.sigmoid()
    found = found[:, 1:] if background == 0 else found[:, :-1]
    assert int((found > threshold).sum()) == pytest.approx(inputs.CANDIDATES, abs=2)


def test_the_files_of_all_rows_can_lie_in_one_folder(tmp_path):
    files = []
    for row in (row for task in ('backbone', 'detect') for row in variants(task, 'cpu') if row.options.get('format')):
        backend = exports.FORMATS[row.options['format']]
        target = ours.exported_path(tmp_path, row.task, backend.format, row.precision)
        files += [target.with_suffix(suffix) for suffix in (backend.suffix, *backend.companions)]
    assert len(set(files)) == len(files) > 15


def test_rows_of_fpnlite_find_the_same(tmp_path):
    inputs.write_inputs(Once(), 'fpnlite', tmp_path, ROOT / 'configs')
    outputs = []
    for run in (ours.model_trained, ours.model_deployed):
        turns = Once()
        run(turns, task='fpnlite', folder=tmp_path, configs=ROOT / 'configs', device='cpu', precision='fp32')
        outputs.append(turns.facts['output'])
    assert DIFFERENCES['fpnlite'](*outputs) < 1e-3 and len(outputs[0]['scores']) == 100


def test_boxes_are_compared_with_their_own():
    known = dict(
        bboxes=np.array([[0, 0, 10, 10], [50, 50, 90, 90], [0, 0, 10, 10]], float),
        scores=np.array([0.9, 0.5, 0.3]),
        labels=np.array([1, 1, 2]),
    )
    order = [2, 0, 1]
    other = {name: x[order] + shift for (name, x), shift in zip(known.items(), (0.1, 0.01, 0))}
    assert boxes_differ(known, known) == 0
    assert boxes_differ(known, other) == pytest.approx(0.01)
    assert boxes_differ(known, dict(other, bboxes=other['bboxes'] + 100)) is None
    assert boxes_differ(known, {name: x[:0] for name, x in other.items()}) is None


def benchmark(*options, **kwargs):
    command = [sys.executable, 'tools/benchmark.py', '--threads', '1', *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **kwargs)


def test_a_real_run(tmp_path):
    names = ['ours-trained', 'torchvision']
    out = tmp_path / 'rows.json'
    done = benchmark('--tasks', 'backbone', '--names', ','.join(names), '--repeats', 3, '--json', out)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())
    assert [(row['task'], row['name'], row['precision']) for row in rows] == [
        ('backbone', 'ours-trained', 'fp32'),
        ('backbone', 'torchvision', 'fp32'),
    ]
    for row in rows:
        assert 0 < row['p10_ms'] <= row['median_ms'] <= row['p90_ms']
        assert row['images_per_s'] == pytest.approx(1000 / row['median_ms'])
        assert row['x_floor'] > 0 and row['speed'] > 0 and row['peak_mb'] > 100
        assert row['name'] in NAMES and row['name'] in done.stdout
    trained, peer = rows
    assert trained['max_abs_diff'] == 0
    assert peer['max_abs_diff'] is None and peer['speed'] == 1
    assert list(tmp_path.iterdir()) == [out]


def test_costs_by_size_and_width(tmp_path):
    sizes, widths = (64, 512), (0.35,)
    what = dict(sizes=sizes, widths=widths, repeats=12)
    with Worker('speed.plot:measure_costs', what, 1, tmp_path / 'log.txt') as worker:
        costs = worker.ready()['costs']
    ((small, large),) = costs.values()
    assert costs.keys() == set(widths) and 0 < 4 * small < large < 10_000  # ms; 64 times the pixels
    draw_costs(costs, sizes, 1, tmp_path / 'costs.svg')
    drawn = (tmp_path / 'costs.svg').read_text()
    assert all(f'<!-- {number:g} -->' in drawn for number in (*sizes, *widths))


@pytest.mark.parametrize(
    'options, message',
    [
        (('--tasks', 'backbone,classify'), '--tasks classify: allowed are backbone, detect, fpnlite, segment, train'),
        (('--names', 'keras'), '--names keras: allowed are ours-trained, '),
        (('--tasks', 'segment', '--names', 'timm'), '--names timm: the task segment has no such row'),
        (('--repeats', '0'), '--repeats 0: allowed are integers from 1'),
        (('--data', '/nowhere'), '--data /nowhere: there is no annotations/instances_train2017.json in it'),
        (('--plot', 'cost.bmp'), '--plot cost.bmp: allowed are files that end in .png, .svg, .pdf'),
        (('--json', '/nowhere/x.json'), '--json /nowhere/x.json: the folder /nowhere does not exist'),
    ],
)
def test_what_cannot_be_measured_is_refused(options, message, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import benchmark as tool

    monkeypatch.setattr(sys, 'argv', ['benchmark.py', *options])
    assert tool.main() == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


def test_workers_tell_what_went_wrong(fakes):
    for function, kind in (('poor', Missing), ('broken', Failed), ('dying', Failed)):
        with Worker(f'fake_variants:{function}', {}, 1, fakes / 'log') as worker, pytest.raises(kind):
            worker.ready()
    assert 'out of order' in (fakes / 'log').read_text()
    options = dict(folder=fakes, name='a', seconds=0.001)
    with Worker('fake_variants:sleeper', options, 1, fakes / 'log') as worker:
        worker.ready()
        os.kill(worker._process.pid, signal.SIGKILL)  # between its turns
        with pytest.raises(Failed, match='short of memory'):
            worker.turn(1)
