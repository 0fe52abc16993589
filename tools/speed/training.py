"""Training end to end: images are read and augmented, and a step is made, by mmengine's runner.

As in :mod:`speed.peers`, nothing of this package is imported.
"""

import os
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.flop_counter import FlopCounterMode

BATCH = 24
SIDE = 320


class _TurnHook(Hook):
    """Ends an iteration of the benchmark with one of the runner, after some to warm up."""

    priority = 'LOWEST'

    def __init__(self, turns: Any, warm_up: int, facts: dict[str, Any]) -> None:
        self.turns, self.left, self.facts = turns, warm_up, facts

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.left -= 1
        if self.left == 0:
            self.turns.begin(**self.facts)
        elif self.left < 0:
            self.turns.tick()


def train(turns: Any, cfg: Config, folder: Path, data: Path) -> None:
    """Runs a config's training on COCO's ``data``, without what is not measured.

    Samples are drawn without an end, so that no epoch starts; there are no more loaders than cores; and nothing is
    validated.
    """
    loader = cfg.train_dataloader
    dataset = loader.dataset.dataset if loader.dataset.type == 'RepeatDataset' else loader.dataset
    dataset.data_root = f'{data}/'
    loader.sampler = dict(type='InfiniteSampler', shuffle=True)
    loader.batch_size = BATCH
    loader.num_workers = min(loader.num_workers, len(os.sched_getaffinity(0)))
    for part in ('val', 'test'):
        cfg[f'{part}_dataloader'] = cfg[f'{part}_cfg'] = cfg[f'{part}_evaluator'] = None
    cfg.work_dir = str(folder / f'training_{os.getpid()}')
    runner = Runner.from_cfg(cfg)
    model = runner.model.eval()
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model(torch.zeros(1, 3, SIDE, SIDE, device=next(model.parameters()).device))
    # A step back costs two forward: by the inputs and by the weights.
    facts = dict(batch=BATCH, madds=3 * (int(flops.get_total_flops()) // 2))
    # Until the batches are used up that the loaders read ahead while the model was built.
    ahead = loader.num_workers * (loader.get('prefetch_factor') or 2)
    runner.register_hook(_TurnHook(turns, ahead + 2, facts))
    runner.train()


def mmdet(turns: Any, folder: Path, data: Path, precision: str, **_: Any) -> None:
    """MMDetection's own config for SSDLite-MobileNetV2; ``'bf16'`` is its ``--amp`` without a loss scale."""
    from mmdet.utils import setup_cache_size_limit_of_dynamo
    from mmengine.hub import get_config

    setup_cache_size_limit_of_dynamo()
    cfg = get_config('mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py')
    if precision == 'bf16':
        cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
    train(turns, cfg, folder, data)
