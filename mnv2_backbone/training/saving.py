"""Writing checkpoints so that a run can be resumed after a kill at any moment."""

import os
from collections import deque
from pathlib import Path
from typing import Any

import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ..errors import UserError, whole_file
from ..registry import HOOKS

_BACKEND = 'mnv2_backbone_atomic'


class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, each written whole or not at all."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes ``obj`` to a temporary file, which replaces ``filepath`` when it is on the disk."""
        with whole_file(filepath) as draft:
            draft.write_bytes(obj)


register_backend(_BACKEND, AtomicLocalBackend, force=True)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` that survives being killed while it saves; for local files only.

    Files are replaced in one step, and an outdated checkpoint, the best one included, is removed after the new one is
    on the disk (mmengine removes it before, which can leave none), and only from the folder of this run. A loss that is
    not finite ends the training, so that no useless checkpoint replaces a good one.

    Raises:
        ValueError: ``backend_args`` or ``file_client_args`` is given.
    """

    def __init__(self, **kwargs: Any) -> None:
        for name in ('backend_args', 'file_client_args'):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f'AtomicCheckpointHook writes local files only, but got {name}={kwargs[name]!r}; '
                    "use type='CheckpointHook' for other storage"
                )
            kwargs.pop(name, None)
        super().__init__(backend_args=dict(backend=_BACKEND), **kwargs)
        self.max_keep_ckpts: int
        self.keep_ckpt_ids: deque[int]
        self.key_indicators: list[str]
        self.best_ckpt_path: str | None
        self.best_ckpt_path_dict: dict[str, str | None]

    def before_train(self, runner: Runner) -> None:
        """Removes what killed runs left half-written."""
        super().before_train(runner)
        for draft in Path(self.out_dir).glob('.*.*.pth') if runner.rank == 0 else ():
            owner = draft.name.split('.')[1]
            if owner.isdigit() and not _is_running(int(owner)):
                draft.unlink(missing_ok=True)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Saves where that is due; raises :class:`UserError` if a loss is NaN or infinite."""
        for name, value in (outputs or {}).items():
            if 'loss' in name and not torch.isfinite(torch.as_tensor(value)).all():
                raise UserError(
                    f'{name} is {float(value)} in iteration {runner.iter + 1}: training stopped, earlier checkpoints '
                    'are kept. In another --work-dir start again, or from the weights of one of them (load_from=FILE), '
                    'with a lower optim_wrapper.optimizer.lr or with optim_wrapper.enabled=False (float32)'
                )
        super().after_train_iter(runner, batch_idx, data_batch, outputs)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        keep = self.max_keep_ckpts
        if keep <= 0:
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        ids = [kept for kept in self.keep_ckpt_ids if kept != step] + [step]
        self.keep_ckpt_ids = deque(ids[-keep:], keep)
        # The list goes into the checkpoint, so that a resumed run goes on removing.
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self.max_keep_ckpts = -1  # the parent saves only
        try:
            super()._save_checkpoint_with_step(runner, step, meta)
        finally:
            self.max_keep_ckpts = keep
        if runner.rank == 0:
            for outdated in ids[:-keep]:
                Path(self.out_dir, self.filename_tmpl.format(outdated)).unlink(missing_ok=True)

    def _best(self) -> dict[str, str | None]:
        """The best checkpoint for each score."""
        if len(self.key_indicators) == 1:
            return {self.key_indicators[0]: self.best_ckpt_path}
        return dict(self.best_ckpt_path_dict)

    def _set_best(self, paths: dict[str, str | None]) -> None:
        if len(self.key_indicators) == 1:
            (self.best_ckpt_path,) = paths.values()
        else:
            self.best_ckpt_path_dict = paths

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        before = self._best()
        self._set_best(dict.fromkeys(before))  # the parent would remove them before it writes
        try:
            super()._save_best_checkpoint(runner, metrics)
        except BaseException:
            self._set_best(before)
            raise
        after = {name: path or before[name] for name, path in self._best().items()}
        self._set_best(after)
        for path in {*before.values()} - {*after.values()}:
            if path and runner.rank == 0 and Path(path).resolve().parent == Path(self.out_dir).resolve():
                Path(path).unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
