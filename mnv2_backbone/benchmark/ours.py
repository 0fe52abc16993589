"""Our networks: as trained, and in their fast forms.

What only some of them need is imported where they are built, so that each process has the memory of its own variant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData

from ..backbone import SLIM_INIT, MobileNetV2
from ..runtime.memory import keep_freed_memory
from .inputs import our_config
from .peers import eager, take_weights
from .workers import Worker

CHECKPOINTS = {'detect': 'our_detector.pt', 'segment': 'our_segmenter.pt'}


def trained_backbone(folder: Path) -> MobileNetV2:
    """The backbone with the weights that all have."""
    network = MobileNetV2(out_indices='layer_19').eval()
    take_weights(network, folder)
    return network


def trained_model(task: str, folder: Path, configs: Path) -> Any:
    """Our detector (``'detect'``) or segmenter (``'segment'``), as MMDetection and MMSegmentation load it."""
    cfg = our_config(task, configs)
    if task == 'detect':
        from mmdet.apis import init_detector

        model = init_detector(cfg, device='cpu')
    else:
        from mmseg.apis import init_model

        model = init_model(cfg, device='cpu')
    model.load_state_dict(torch.load(folder / CHECKPOINTS[task]))
    return model


def boxes(found: InstanceData) -> dict[str, np.ndarray]:
    """Detections as plain arrays."""
    return {name: found[name].float().cpu().numpy() for name in ('bboxes', 'scores', 'labels')}


def written(target: Path, how: str, **options: Any) -> Path:
    """``target``, written by a function of :mod:`.exports` in a process of its own, where it is not there yet.

    Memory that the writing takes is not the variant's then.

    Raises:
        Missing: A library that it needs is not installed.
        Failed: It cannot be written.
    """
    if not target.exists():
        log = target.with_name('log.txt')
        variant = f'mnv2_backbone.benchmark.exports:{how}'
        with Worker(variant, dict(options, target=target), torch.get_num_threads(), log) as worker:
            worker.ready()
    return target


def backbone_trained(turns: Any, folder: Path, device: str, precision: str, **_: Any) -> None:
    """The module as it is."""
    network = trained_backbone(folder).to(device)
    x = torch.from_numpy(np.load(folder / 'normalised.npy')[:1]).to(device)
    eager(turns, lambda: network(x)[0], device, precision, lambda y: y.float().cpu().numpy())


def detect_trained(turns: Any, folder: Path, configs: Path, device: str, precision: str, **_: Any) -> None:
    """The detector through MMDetection's ``inference_detector``."""
    from mmdet.apis import inference_detector

    model = trained_model('detect', folder, configs).to(device)
    picture = np.load(folder / 'detect.npy')
    eager(
        turns,
        lambda: inference_detector(model, picture),
        device,
        precision,
        lambda sample: boxes(sample.pred_instances),
    )


def segment_trained(turns: Any, folder: Path, configs: Path, device: str, precision: str, **_: Any) -> None:
    """The segmenter through MMSegmentation's ``inference_model``."""
    from mmseg.apis import inference_model

    model = trained_model('segment', folder, configs).to(device)
    picture = np.load(folder / 'segment.npy')
    eager(
        turns,
        lambda: inference_model(model, picture),
        device,
        precision,
        lambda sample: sample.pred_sem_seg.data[0].cpu().numpy(),
    )


def backbone_deployed(turns: Any, folder: Path, precision: str, **_: Any) -> None:
    """The backbone from ``deploy``."""
    from ..deployment import deploy

    x = torch.from_numpy(np.load(folder / 'normalised.npy')[:1])
    network: Any = deploy(trained_backbone(folder), size=(x.shape[2], x.shape[3]), precision=precision)
    turns.loop(lambda: network(x), output=network(x)[0].numpy())


def backbone_onnxruntime(turns: Any, folder: Path, precision: str, **_: Any) -> None:
    """The backbone exported to ONNX, in ONNX Runtime."""
    import onnxruntime

    from ..deployment.runtimes import onnxruntime_options

    source = written(folder / 'backbone.onnx', 'backbone_onnx', folder=folder)
    if precision == 'int8':
        source = written(folder / 'backbone_int8.onnx', 'backbone_onnx_int8', folder=folder, source=source)
    options = onnxruntime_options(torch.get_num_threads())
    session = onnxruntime.InferenceSession(source, options, providers=['CPUExecutionProvider'])
    feed = {session.get_inputs()[0].name: np.load(folder / 'normalised.npy')[:1]}
    turns.loop(lambda: session.run(None, feed), output=session.run(None, feed)[0])


def backbone_openvino(turns: Any, folder: Path, precision: str, **_: Any) -> None:
    """The backbone exported to ONNX, in OpenVINO."""
    import openvino

    from ..deployment.runtimes import openvino_options

    source = written(folder / 'backbone.onnx', 'backbone_onnx', folder=folder)
    if precision == 'int8':
        source = written(folder / 'backbone_int8.xml', 'backbone_openvino_int8', folder=folder, source=source)
    network = openvino.Core().compile_model(source, 'CPU', openvino_options(precision, torch.get_num_threads()))
    x = np.load(folder / 'normalised.npy')[:1]
    turns.loop(lambda: network(x), output=network(x)[0].copy())


def detect_deployed(turns: Any, folder: Path, configs: Path, precision: str, **_: Any) -> None:
    """The detector from ``deploy``."""
    from ..deployment import deploy

    detect: Any = deploy(trained_model('detect', folder, configs), precision=precision)
    picture = np.load(folder / 'detect.npy')
    turns.loop(lambda: detect([picture]), output=boxes(detect([picture])[0]))


def segment_deployed(turns: Any, folder: Path, configs: Path, precision: str, **_: Any) -> None:
    """The segmenter from ``deploy``."""
    from ..deployment import deploy

    segment: Any = deploy(trained_model('segment', folder, configs), precision=precision)
    picture = np.load(folder / 'segment.npy')
    turns.loop(lambda: segment([picture]), output=segment([picture])[0])


def _exported(turns: Any, task: str, format: str, suffix: str, folder: Path, configs: Path, precision: str) -> None:
    from ..deployment.exported import Exported

    target = folder / f'{task}_{precision}{suffix}'
    written(target, 'model', folder=folder, configs=configs, task=task, format=format, precision=precision)
    run = Exported(target, torch.get_num_threads())
    picture = np.load(folder / f'{task}.npy')
    found = run([picture])[0]
    turns.loop(lambda: run([picture]), output=boxes(found) if task == 'detect' else found)


def exported_onnxruntime(turns: Any, task: str, folder: Path, configs: Path, precision: str, **_: Any) -> None:
    """The detector or segmenter as an ONNX file, in ONNX Runtime."""
    import onnxruntime  # noqa: F401 - if it is missing, this names it

    _exported(turns, task, 'onnx', '.onnx', folder, configs, precision)


def exported_openvino(turns: Any, task: str, folder: Path, configs: Path, precision: str, **_: Any) -> None:
    """The detector or segmenter as an OpenVINO file."""
    import openvino  # noqa: F401 - if it is missing, this names it

    _exported(turns, task, 'openvino', '.xml', folder, configs, precision)


def train(turns: Any, folder: Path, configs: Path, data: Path, precision: str, **_: Any) -> None:
    """Our COCO config, as ``tools/train.py`` runs it, from random weights."""
    from . import training

    keep_freed_memory()
    cfg = our_config('detect', configs)
    cfg.model.backbone.init_cfg = SLIM_INIT
    cfg.optim_wrapper.enabled = precision == 'bf16'
    training.train(turns, cfg, folder, data)


def train_pipelines(turns: Any, configs: Path, data: Path, samples: int, **_: Any) -> None:
    """The training pipelines alone, picture by picture in one thread: ours and MMDetection's own."""
    from mmengine.hub import get_config

    from .pipeline import compare_ms

    ours = our_config('detect', configs).train_dataloader.dataset
    theirs = get_config('mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py').train_dataloader.dataset.dataset
    ours.data_root = f'{data}/'
    times = compare_ms({'ours': ours.pipeline, 'mmdet': theirs.pipeline}, ours, samples)
    turns.begin(**times)
