"""Checkpoints fit the model they are loaded into, or the run stops and says why."""

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner

from ..errors import WeightsError, listing
from ..network.backbone import MobileNetV2
from ..network.fit import beyond_the_last, check_fit, check_meta
from ..registry import HOOKS
from .transfer import fit_classes, plain


@HOOKS.register_module()
class CheckedLoadHook(Hook):
    """Refuses checkpoints that fit only in part, and transfers classes that are known to another class list.

    mmengine loads what fits and logs the rest. With this hook, missing, left over and misshapen tensors end the run
    before it starts; only layers of the backbone after the last one built are ignored. If the checkpoint knows its
    classes and the data set has others, training transfers them: classes of the same name keep their weights and the
    others start fresh; a log line names them. Resuming and testing are refused then.

    Args:
        fresh: Parts of the model (``'bbox_head'``) that start from their initialization whatever the checkpoint has,
            when a training starts; resuming and testing load them.

    Raises:
        WeightsError: The checkpoint does not fit; the message lists what is wrong.
    """

    priority = 'LOW'  # after EMAHook, which puts the averaged weights in place

    def __init__(self, fresh: Sequence[str] = ()) -> None:
        self.fresh = tuple(fresh)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Checks ``checkpoint['state_dict']``, and rearranges it if necessary, before it is loaded."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if isinstance(model, BaseTTAModel):
            model = model.module
        training = _trains(runner)
        fresh = self.fresh if training and not runner._resume else ()
        nested = 'state_dict' in checkpoint
        state = {
            key.removeprefix('module.'): value
            for key, value in (checkpoint['state_dict'] if nested else checkpoint).items()
            if key.removeprefix('module.').partition('.')[0] not in fresh
        }
        meta = checkpoint.get('meta') or {} if nested else {}
        if isinstance(getattr(model, 'backbone', None), MobileNetV2):
            check_meta(model.backbone, meta)
        old = (meta.get('dataset_meta') or {}).get('classes')
        loader = runner.train_dataloader if training else runner.test_dataloader
        new = (getattr(getattr(loader, 'dataset', None), 'metainfo', None) or {}).get('classes')
        heads = [key for key in state if 'head' in key.partition('.')[0]]
        if old and new and heads and list(map(plain, old)) != list(map(plain, new)):
            if not training or runner._resume:
                way = (
                    'start from its weights with load_from instead of resume' if training else 'test on its own classes'
                )
                raise WeightsError(
                    f'the checkpoint has the classes {listing(old, 5)}, the data set {listing(new, 5)}: {way}'
                )
            transfer = fit_classes(state, model.state_dict(), old, new)
            state = transfer.state_dict
            runner.logger.info(
                f'{len(transfer.kept)} classes keep their weights: {", ".join(transfer.kept) or "none"}; '
                f'{len(transfer.fresh)} start fresh: {", ".join(transfer.fresh) or "none"}'
            )
        plan = getattr(getattr(model, 'backbone', None), 'plan', None)
        names = [key.removeprefix('backbone.') for key in state if key.startswith('backbone.')]
        unbuilt = [f'backbone.{name}' for name in (beyond_the_last(plan, names) if plan else [])]
        check_fit(model, state, allow_missing=fresh, allow_left_over=unbuilt)
        if nested:
            checkpoint['state_dict'] = state
        else:
            checkpoint.clear()
            checkpoint.update(state)


def _trains(runner: Runner) -> bool:
    """Whether a checkpoint is loaded for a training; in a test, too, a hook may have built the loop of training."""
    return isinstance(runner._train_loop, BaseLoop) and not isinstance(runner._test_loop, BaseLoop)
