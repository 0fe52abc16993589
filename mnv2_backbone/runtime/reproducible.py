"""A run that was interrupted and resumed gives the losses of one that was not.

mmengine resumes weights, optimizer, schedules and counters, but no random state, and seeds its data
workers by their number and lifetime. Here every random draw depends on the seed and on what is
drawn for alone: the epoch and the sample for augmentation, the iteration and the rank for the
model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce_dict, broadcast, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..errors import UserError
from ..registry import HOOKS
from .datasets import base_datasets, wrappers


def _mix(*numbers: int) -> int:
    """Hashes a tuple of non-negative numbers to a seed of 32 bits."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class SampleSeeder:
    """Seeds the random state before the first transform of a pipeline, by epoch and sample.

    So the augmentation of a picture depends neither on the number of workers nor on their lifetime
    nor on the rank. One object stands at both ends of a pipeline, :meth:`start` and :meth:`finish`:
    a sample that a transform gave up is followed by another one drawn from the same random stream,
    not from a new one, which could lead back to the first.

    Args:
        seed: The seed of the run.
        part: The position of the data set among those that are trained on together.
        epoch: A shared tensor of no dimensions with the current epoch: workers that were started
            before the epoch began read it too.
    """

    def __init__(self, seed: int, part: int, epoch: torch.Tensor) -> None:
        self.seed, self.part, self.epoch = seed, part, epoch
        self._given_up = False

    def start(self, results: dict) -> dict:
        """Seeds Python, NumPy and torch for the sample ``results['sample_idx']``."""
        if not self._given_up:
            number = _mix(self.seed, self.part, int(self.epoch), results['sample_idx'])
            random.seed(number)
            np.random.seed(number)
            torch.default_generator.manual_seed(
                number
            )  # the CPU's alone: a worker must not touch a GPU
        self._given_up = True  # until finish() says otherwise
        return results

    def finish(self, results: Any) -> Any:
        """Notes that the sample went through."""
        self._given_up = False
        return results


@HOOKS.register_module()
class ReproducibleHook(Hook):
    """Makes epoch-based training independent of interruptions, worker counts and the number of processes.

    Resuming from a checkpoint written at the end of an epoch continues exactly (on a GPU as far as
    its kernels are deterministic: ``randomness=dict(deterministic=True)``). With iteration-based
    training, only the model's own random draws are reproduced, and a log line says so.

    Raises:
        UserError: A data set is repeated within an epoch: its copies would all be augmented alike.
    """

    priority = 'HIGHEST'  # before the hook that notes the losses

    def __init__(self) -> None:
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._seed = 0

    def before_train(self, runner: Runner) -> None:
        """Puts a :class:`SampleSeeder` around every pipeline that is trained on."""
        # With diff_rank_seed the ranks have different seeds, but all must shuffle and augment
        # alike.
        seed = torch.tensor(runner.seed)
        broadcast(seed)
        self._seed = int(seed)
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            runner.logger.warning(
                'iteration-based training: resuming is not exact, because augmentation is not tied to samples'
            )
            return
        dataset = runner.train_dataloader.dataset
        for wrapper in wrappers(dataset):
            if type(wrapper).__name__ in ('RepeatDataset', 'ClassBalancedDataset'):
                raise UserError(
                    f'ReproducibleHook and {type(wrapper).__name__} do not go together: the copies of a picture '
                    'would be augmented alike within an epoch; train for more epochs instead, or remove the hook'
                )
        for part, base in enumerate(base_datasets(dataset)):
            seeder = SampleSeeder(self._seed, part, self._epoch)
            base.pipeline.transforms = [seeder.start, *base.pipeline.transforms, seeder.finish]
        # The sampler was built before the checkpoint told the seed of the run.
        loader = runner.train_dataloader
        for sampler in (loader.sampler, getattr(loader.batch_sampler, 'sampler', None)):
            if sampler is not None and hasattr(sampler, 'seed'):
                sampler.seed = self._seed

    def before_train_epoch(self, runner: Runner) -> None:
        """Tells the workers which epoch begins."""
        self._epoch.fill_(runner.epoch)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Sequence[dict] | None = None
    ) -> None:
        """Seeds this process for what the model draws (dropout, sampling) in this iteration."""
        number = _mix(self._seed, runner.iter, get_rank())
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Sequence[dict] | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Makes the losses that are logged those of the whole batch: their mean over all processes."""
        if outputs and get_world_size() > 1:
            losses = {
                name: value.detach() for name, value in outputs.items() if torch.is_tensor(value)
            }
            all_reduce_dict(losses, op='mean')
            outputs.update(losses)
