"""A training's progress in a terminal, and how many epochs a time is enough for."""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, cast

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner, ValLoop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mnv2_backbone.errors import UserError
from mnv2_backbone.training.cpu import keep_freed_memory
from mnv2_backbone.training.options import load_config

from .choices import interval


class ProgressHook(Hook):
    """Shows a bar with the time that is left, while its ``progress`` is entered.

    Where ``console`` is no terminal, it prints a line after each validation instead. After ``minutes`` it ends the
    training with the next validation: the machine may have become slower than when the epochs were planned.
    """

    priority = 'VERY_LOW'

    def __init__(self, score: str, console: Console, minutes: float | None = None) -> None:
        self.score, self.best, self.text, self.console = score, -1.0, '', console
        self.minutes, self.began = minutes, 0.0
        columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(
            *columns,
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.task: Any = None

    def before_train(self, runner: Runner) -> None:
        """Adds the bar."""
        self.began = time.monotonic()
        self.task = self.progress.add_task('training', total=runner.max_iters, completed=runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Moves the bar."""
        if outputs and batch_idx % 5 == 0:
            losses = f'epoch {runner.epoch + 1}, loss {outputs["loss"].item():.2f}'
            self.progress.update(self.task, description=f'{losses}{self.text}')
        self.progress.update(self.task, completed=runner.iter + 1)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Notes the score."""
        value = float((metrics or {}).get(self.score, 0.0))
        self.best = max(self.best, value)
        self.text = f', {self.score.rpartition("/")[2]} {value:.3f} (best {self.best:.3f})'
        if self.progress.disable:
            self.console.print(f'epoch {runner.epoch}/{runner.max_epochs}{self.text}')
        if self.minutes and time.monotonic() - self.began > self.minutes * 60 and runner.epoch < runner.max_epochs:
            runner.train_loop.stop_training = True
            planned = f'{runner.epoch} of the {runner.max_epochs} planned epochs'
            self.console.print(f'ends after {planned}: the {self.minutes:g} minutes are over')


class _StepTimes(Hook):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.ends.append(time.monotonic())


def seconds_per_epoch(config: str, steps: int = 12) -> tuple[float, float]:
    """How long an epoch of a config and a validation take on this machine, by a few batches of each."""
    keep_freed_memory()  # as in the training
    cfg: Config = load_config(config)
    batch = cfg.train_dataloader.batch_size
    with tempfile.TemporaryDirectory() as folder:
        cfg.merge_from_dict(dict(work_dir=folder, experiment_name='timing', visualizer=dict(name='timing')))
        cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=steps, val_begin=steps + 1)
        cfg.param_scheduler, cfg.custom_hooks = None, [dict(type='mnv2_backbone.CheckedLoadHook')]
        cfg.default_hooks.checkpoint = None
        runner = Runner.from_cfg(cfg)
        hook = _StepTimes()
        runner.register_hook(hook)
        runner.train()
        images = len(runner.train_dataloader.dataset)
        runner.model.eval()
        loop = cast(ValLoop, runner.val_loop)
        began = time.monotonic()
        done = [loop.run_iter(index, data) for index, data in zip(range(steps), loop.dataloader)]
        validation = (time.monotonic() - began) / len(done) * len(loop.dataloader)
    taken = [later - earlier for earlier, later in zip(hook.ends[2:], hook.ends[3:])]
    return max(images // batch, 1) * median(taken), validation  # a mean would keep the pause of a single step


def epochs_within(seconds: float, training: float, validation: float) -> int:
    """How many epochs take no longer than this, with their validations; at least one."""
    counts = range(int(seconds / training), 1, -1)
    return next((n for n in counts if n * training + n // interval(n) * validation <= seconds), 1)


def best_checkpoint(folder: Path) -> str:
    """The path of the best checkpoint in a work folder, else of the newest one.

    Raises:
        UserError: There is none.
    """
    found = sorted(folder.glob('best_*.pth')) or sorted(folder.glob('epoch_*.pth'))
    if not found:
        raise UserError(f'{folder}: the training left no checkpoint')
    return str(max(found, key=lambda path: path.stat().st_mtime_ns))
