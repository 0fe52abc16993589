"""Our networks: as trained, and in their fast forms.

What only some of them need is imported when they are built, so that each process has the memory of its own variant.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData

from mnv2_backbone import SLIM_INIT, MobileNetV2
from mnv2_backbone.deployment.backends import FORMATS
from mnv2_backbone.training.cpu import keep_freed_memory

from .inputs import CHECKPOINTS, our_config
from .peers import eager, take_weights
from .workers import Worker


def trained_backbone(folder: Path) -> MobileNetV2:
    """The backbone with the weights that all have."""
    network = MobileNetV2(out_indices='layer_19').eval()
    take_weights(network, folder)
    return network


def trained_model(task: str, folder: Path, configs: Path) -> Any:
    """Our model of a task, as MMDetection or MMSegmentation loads it."""
    if task == 'segment':
        from mmseg.apis import init_model
    else:
        from mmdet.apis import init_detector as init_model
    model = init_model(our_config(task, configs), device='cpu')
    model.load_state_dict(torch.load(folder / CHECKPOINTS[task]))
    return model


def boxes(found: InstanceData) -> dict[str, np.ndarray]:
    """Detections as plain arrays."""
    return {name: found[name].float().cpu().numpy() for name in ('bboxes', 'scores', 'labels')}


def written(target: Path, how: str, **options: Any) -> Path:
    """``target``, written by a function of :mod:`.exports` in a process of its own, unless it exists.

    So the memory that writing takes does not count for the variant.
    """
    if not target.exists():
        log = target.with_name('log.txt')
        variant = f'speed.exports:{how}'
        with Worker(variant, dict(options, target=target), torch.get_num_threads(), log) as worker:
            worker.ready()
    return target


def backbone_trained(turns: Any, folder: Path, device: str, precision: str, **_: Any) -> None:
    """The module as it is."""
    network = trained_backbone(folder).to(device)
    x = torch.from_numpy(np.load(folder / 'normalised.npy')[:1]).to(device)
    eager(turns, lambda: network(x)[0], device, precision, lambda y: y.float().cpu().numpy())


def model_trained(turns: Any, task: str, folder: Path, configs: Path, device: str, precision: str, **_: Any) -> None:
    """A whole model through ``inference_detector`` of MMDetection or ``inference_model`` of MMSegmentation."""
    model = trained_model(task, folder, configs).to(device)
    image = np.load(folder / f'{task}.npy')
    if task == 'segment':
        from mmseg.apis import inference_model as infer
    else:
        from mmdet.apis import inference_detector as infer

    def output(sample: Any) -> Any:
        return sample.pred_sem_seg.data[0].cpu().numpy() if task == 'segment' else boxes(sample.pred_instances)

    eager(turns, lambda: infer(model, image), device, precision, output)


def backbone_deployed(turns: Any, folder: Path, precision: str, **_: Any) -> None:
    """The backbone from ``deploy``."""
    from mnv2_backbone import deploy

    x = torch.from_numpy(np.load(folder / 'normalised.npy')[:1])
    network: Any = deploy(trained_backbone(folder), size=(x.shape[2], x.shape[3]), precision=precision)
    turns.loop(lambda: network(x), output=network(x)[0].numpy())


def exported_path(folder: Path, task: str, format: str, precision: str) -> Path:
    """Where the file of a row is; formats share suffixes of the files that belong to it."""
    return folder / f'{task}_{format}_{precision}{FORMATS[format].suffix}'


def backbone_exported(turns: Any, format: str, folder: Path, precision: str, **_: Any) -> None:
    """The backbone in an exported file, run by the file's back end."""
    backend, target = FORMATS[format], exported_path(folder, 'backbone', format, precision)
    written(target, 'backbone', folder=folder, format=format, precision=precision)
    run = backend.load(target, precision, torch.get_num_threads())
    x = np.load(folder / 'normalised.npy')[:1]
    turns.loop(lambda: run(x), output=run(x)[0].copy())


def model_deployed(turns: Any, task: str, folder: Path, configs: Path, precision: str, **_: Any) -> None:
    """A whole model from ``deploy``."""
    from mnv2_backbone import deploy

    _run_model(turns, task, folder, deploy(trained_model(task, folder, configs), precision=precision))


def model_exported(turns: Any, task: str, format: str, folder: Path, configs: Path, precision: str, **_: Any) -> None:
    """A whole model in an exported file, run by the file's back end."""
    from mnv2_backbone.deployment.predictor import Predictor

    target = exported_path(folder, task, format, precision)
    written(target, 'model', folder=folder, configs=configs, task=task, format=format, precision=precision)
    _run_model(turns, task, folder, Predictor.from_file(target, torch.get_num_threads()))


def _run_model(turns: Any, task: str, folder: Path, model: Any) -> None:
    """Takes the time from an image to boxes or labels."""
    image = np.load(folder / f'{task}.npy')
    found = model([image])[0]
    turns.loop(lambda: model([image]), output=found if task == 'segment' else boxes(found))


def train(turns: Any, folder: Path, configs: Path, data: Path, precision: str, **_: Any) -> None:
    """Our COCO config, as ``tools/train.py`` runs it, from random weights."""
    from . import training

    keep_freed_memory()
    cfg = our_config('detect', configs)
    cfg.model.backbone.init_cfg = SLIM_INIT
    cfg.optim_wrapper.enabled = precision == 'bf16'
    training.train(turns, cfg, folder, data)


def train_pipelines(turns: Any, configs: Path, data: Path, samples: int, **_: Any) -> None:
    """The training pipelines alone, image by image in one thread: ours and MMDetection's own."""
    from mmengine.hub import get_config

    from .pipeline import compare_ms

    ours = our_config('detect', configs).train_dataloader.dataset
    theirs = get_config('mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py').train_dataloader.dataset.dataset
    ours.data_root = f'{data}/'
    times = compare_ms({'ours': ours.pipeline, 'mmdet': theirs.pipeline}, ours, samples)
    turns.begin(**times)
