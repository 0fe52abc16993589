"""A run that was interrupted and resumed has the losses of one that was not.

mmengine resumes weights, optimizer, schedules and counters, but no random state, and its data workers draw numbers that
depend on how many there are and how long they live. Here they depend on the seed, the epoch and the sample for
augmentation, and on the seed, the iteration and the rank for the model, and on nothing else.
"""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce_dict, broadcast, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..data.images import base_datasets, wrappers
from ..errors import UserError
from ..registry import HOOKS


def _mix(*numbers: int) -> int:
    """Hashes a tuple of non-negative numbers to a seed of 32 bits."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class SampleSeeder:
    """Seeds the random state before the first transform of a pipeline, by epoch and sample.

    The first transform of the pipeline is :meth:`start`, the last :meth:`finish`. After a sample for which a transform
    returned None, the next one is drawn from the same random stream: a new one could lead back to the first. ``part``
    is the position of the data set among those that are trained on together; ``epoch`` is a shared tensor, so that
    workers see it change.
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
            torch.default_generator.manual_seed(number)  # the CPU's alone: a worker must not touch a GPU
        self._given_up = True  # until finish() is called
        return results

    def finish(self, results: Any) -> Any:
        """Records that no transform returned None."""
        self._given_up = False
        return results


@HOOKS.register_module()
class ReproducibleHook(Hook):
    """Makes epoch-based training independent of interruptions, workers and the number of processes.

    Resuming from a checkpoint written at the end of an epoch continues exactly (on a GPU as far as its kernels are
    deterministic: ``randomness=dict(deterministic=True)``). With iteration-based training, only the model's own random
    numbers are reproduced, and a log line says so. Data sets that repeat samples within an epoch are refused.
    """

    priority = 'HIGHEST'  # before the hook that logs the losses

    def __init__(self) -> None:
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._seed = 0

    def before_train(self, runner: Runner) -> None:
        """Puts a :class:`SampleSeeder` around every pipeline that is trained on."""
        # With diff_rank_seed the ranks have different seeds, but all must shuffle and augment alike.
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
                    f'ReproducibleHook and {type(wrapper).__name__} cannot be used together: the copies of an image '
                    'would be augmented alike within an epoch; train for more epochs instead, or remove the hook'
                )
        for part, base in enumerate(base_datasets(dataset)):
            seeder = SampleSeeder(self._seed, part, self._epoch)
            base.pipeline.transforms = [seeder.start, *base.pipeline.transforms, seeder.finish]
        # The sampler was built before the seed of the run was read from the checkpoint.
        loader = runner.train_dataloader
        for sampler in (loader.sampler, getattr(loader.batch_sampler, 'sampler', None)):
            if sampler is not None and hasattr(sampler, 'seed'):
                sampler.seed = self._seed

    def before_train_epoch(self, runner: Runner) -> None:
        """Sets the epoch that the workers read."""
        self._epoch.fill_(runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Sequence[dict] | None = None) -> None:
        """Seeds the random numbers of the model (dropout, sampling) in this iteration."""
        number = _mix(self._seed, runner.iter, get_rank())
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Sequence[dict] | None = None, outputs: dict | None = None
    ) -> None:
        """Makes the losses that are logged those of the whole batch: their mean over all processes."""
        if outputs and get_world_size() > 1:
            losses = {name: value.detach() for name, value in outputs.items() if torch.is_tensor(value)}
            all_reduce_dict(losses, op='mean')
            outputs.update(losses)
