"""Puts weights into a network, all of them or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..spec import Plan, make_plan
from .imported import WeightsError, listing
from .layout import find_options


def check_fit(
    module: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    prefix: str = '',
    allow_missing: Sequence[str] = (),
    allow_left_over: Sequence[str] = (),
) -> None:
    """Refuses weights that fit a network only in part.

    Args:
        module: The network, or a part of one.
        state_dict: The weights by key.
        prefix: What the keys have before the module's own (``'backbone.'``); others are not looked at.
        allow_missing: Parts of the module, by name (``'bbox_head'``), that the weights may lack.
        allow_left_over: Parts that the weights may have and the module not.

    Raises:
        WeightsError: Tensors are missing, left over or of the wrong shape; the message lists them.
    """
    given = _own_keys(state_dict, prefix)
    own = module.state_dict()
    missing = [
        key
        for key in own
        if key not in given and not key.endswith('num_batches_tracked') and not _within(key, allow_missing)
    ]
    left_over = [key for key in given if key not in own and not _within(key, allow_left_over)]
    wrong = [
        f'{key} {tuple(given[key].shape)}, not {tuple(own[key].shape)}'
        for key in own
        if key in given and given[key].shape != own[key].shape
    ]
    if missing or left_over or wrong:
        problems = (('missing', missing), ('left over', left_over), ('of the wrong shape', wrong))
        lines = [f'{len(names)} {what}: {listing(names)}' for what, names in problems if names]
        hint = _hint(module, state_dict) if wrong or not set(own) & set(given) else ''
        raise WeightsError('\n  '.join([f'the weights do not fit {type(module).__name__}{hint}', *lines]))


def load_into(
    module: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    prefix: str = '',
    allow_missing: Sequence[str] = (),
    allow_left_over: Sequence[str] = (),
) -> None:
    """Loads weights, and refuses to load a part of them by accident.

    Args:
        module: The network, or a part of one; what the weights may lack keeps its values.
        state_dict, prefix, allow_missing, allow_left_over: As for :func:`check_fit`.

    Raises:
        WeightsError: See :func:`check_fit`; the module is as it was.
    """
    check_fit(
        module, state_dict, prefix=prefix, allow_missing=allow_missing, allow_left_over=allow_left_over
    )
    own = module.state_dict()
    with torch.no_grad():
        for key, value in _own_keys(state_dict, prefix).items():
            if key in own:
                own[key].copy_(value)


def _own_keys(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}


def load_backbone(backbone: nn.Module, state_dict: Mapping[str, Tensor], *, prefix: str = 'backbone.') -> None:
    """Loads weights into a :class:`mnv2_backbone.MobileNetV2`; :func:`load_into` tells the errors.

    Args:
        backbone: It may end before the weights do: what is not built is left out.
        state_dict: The weights by key, of a backbone alone (without ``prefix``) or of a larger network.
        prefix: What the backbone's keys begin with.
    """
    prefix = prefix if any(key.startswith(prefix) for key in state_dict) else ''
    beyond = beyond_the_last(cast(Plan, backbone.plan), _own_keys(state_dict, prefix))
    load_into(backbone, state_dict, prefix=prefix, allow_left_over=beyond)


def beyond_the_last(plan: Plan, keys: Iterable[str]) -> list[str]:
    """The parts of a backbone that come after the last that a plan builds.

    Args:
        plan: The plan.
        keys: Keys of weights, without a prefix.

    Returns:
        Names of layers, and of convolutions of the last layer that is built.
    """
    last = plan.layers[-1]
    number = int(last.name.removeprefix('layer_'))
    layers = {key.partition('.')[0] for key in keys if key.startswith('layer_')}
    steps = {'expand': 'expansion', 'depthwise': 'depthwise', 'project': 'projection'}
    cut = [f'{last.name}.{part}' for part, step in steps.items() if step not in last.steps]
    beyond = sorted(name for name in layers if int(name.removeprefix('layer_')) > number)
    return beyond + (cut if last.op == 'bottleneck' else [])


def _within(key: str, parts: Sequence[str]) -> bool:
    return any(key == part or key.startswith(f'{part.rstrip(".")}.') for part in parts)


def _hint(module: nn.Module, state_dict: Mapping[str, Tensor]) -> str:
    """Whether the widths differ, as a part of a message."""
    keys = [key for key in state_dict if key.endswith('layer_1.conv.weight')]
    if not keys:
        return ': they are not in the layout of this package; tools/convert_weights.py converts them'
    prefix = keys[0].removesuffix('layer_1.conv.weight')
    options = find_options(
        {f'backbone.{k.removeprefix(prefix)}': v for k, v in state_dict.items() if k.startswith(prefix)}
    )
    backbone = getattr(module, 'backbone', module)
    plan = getattr(backbone, 'plan', None)
    if options is None or not isinstance(plan, Plan):
        return ''
    theirs = make_plan(out_indices='layer_19', **options).layers
    if [x.out_channels for x in theirs[: len(plan.layers)]] == [x.out_channels for x in plan.layers]:
        return ''
    width, own = options.get('widen_factor', 1.0), getattr(backbone, 'widen_factor', None)
    if width == own:
        return f': they are of the standard layer table at widen_factor={width}, the network has another table'
    return f': they are of widen_factor={width}, the network has {own or "another"}'
