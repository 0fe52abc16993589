"""Fits weights to a network: all of them or none. What a backbone's weights must be follows from its plan."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import WeightsError, listing
from ..spec import STEP_MODULES, Plan, make_plan

NORM = ('weight', 'bias', 'running_mean', 'running_var')
#: Google's widths, and others in steps of 0.05.
_WIDTHS = (1.0, *(round(0.05 * i, 2) for i in range(1, 61) if i != 20))


def backbone_shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Key and shape of every tensor of a backbone with batch norms."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in plan.layers:
        for conv in layer.convolutions:
            module = '.'.join(part for part in ('backbone', layer.name, conv.module) if part)
            shapes[f'{module}.conv.weight'] = conv.weight_shape
            shapes.update({f'{module}.bn.{leaf}': (conv.out_channels,) for leaf in NORM})
    return shapes


def find_options(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The options of :func:`mnv2_backbone.make_plan`, other than the defaults, that give the channels of a file.

    None if no width of the standard table fits, with any ``finegrain``, ``min_depth`` and ``divisible_by`` of Google's.
    """
    ours = {
        key: tuple(x.shape) for key, x in state.items() if key.startswith('backbone.') and key.endswith('conv.weight')
    }
    for options in _candidates() if ours else ():
        shapes = backbone_shapes(make_plan(out_indices='layer_19', **options))
        if all(shapes.get(key) == shape for key, shape in ours.items()):
            return options
    return None


def _candidates() -> Iterator[dict[str, Any]]:
    for width in _WIDTHS:
        base = {} if width == 1 else dict(widen_factor=width)
        yield base
        if width < 1:
            yield dict(base, finegrain=True)
            yield dict(base, min_depth=16)
            yield dict(base, finegrain=True, min_depth=16)
        if width != 1:
            yield dict(base, divisible_by=4)  # TensorFlow's DeepLab of other widths


def check_complete(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> None:
    """Raises :class:`WeightsError` if a tensor of the backbone, up to the last layer in ``state``, is missing."""
    last = max(_number(key.split('.')[1]) for key in state if key.startswith('backbone.'))
    plan = make_plan(out_indices='layer_19', **options)
    wanted = {key: shape for key, shape in backbone_shapes(plan).items() if _number(key.split('.')[1]) <= last}
    missing = [key for key in wanted if key not in state]
    wrong = [key for key, shape in wanted.items() if key in state and tuple(state[key].shape) != shape]
    problems = _named(missing=missing, of_the_wrong_shape=wrong)
    if problems:
        raise WeightsError(f'the backbone is not complete: {"; ".join(problems)}')


def check_fit(
    module: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    prefix: str = '',
    allow_missing: Sequence[str] = (),
    allow_left_over: Sequence[str] = (),
) -> None:
    """Raises :class:`WeightsError` if weights fit a network only in part; the message lists the tensors.

    Args:
        module: The network, or a part of one.
        state_dict: The weights by key.
        prefix: What the keys have before the module's own (``'backbone.'``); others are not looked at.
        allow_missing: Parts of the module, by name (``'bbox_head'``), that the weights may lack.
        allow_left_over: Parts that the weights may have and the module not.
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
    nan = [key for key, value in given.items() if value.is_floating_point() and not value.isfinite().all()]
    problems = _named(missing=missing, left_over=left_over, of_the_wrong_shape=wrong, with_NaN_or_infinity=nan)
    if problems:
        hint = _hint(module, state_dict) if wrong or not set(own) & set(given) else ''
        raise WeightsError('\n  '.join([f'the weights do not fit {type(module).__name__}{hint}', *problems]))


def load_into(module: nn.Module, state_dict: Mapping[str, Tensor], *, prefix: str = '', **allowed: Any) -> None:
    """Loads weights after :func:`check_fit`; missing parts that it allows keep their values."""
    check_fit(module, state_dict, prefix=prefix, **allowed)
    own = module.state_dict()
    with torch.no_grad():
        for key, value in _own_keys(state_dict, prefix).items():
            if key in own:
                own[key].copy_(value)


def load_backbone(backbone: nn.Module, state_dict: Mapping[str, Tensor], *, prefix: str | None = None) -> None:
    """Loads weights, of a backbone alone or of a larger network, into a :class:`MobileNetV2`.

    The network may end before the weights do. If its images have other than three channels, the weights of the first
    convolution are adapted as in timm. ``prefix`` is what the keys of the backbone begin with, by default
    ``'backbone.'`` if some do. Errors as for :func:`check_fit`.
    """
    if prefix is None:
        prefix = 'backbone.' if any(key.startswith('backbone.') for key in state_dict) else ''
    plan = cast(Plan, backbone.plan)
    beyond = beyond_the_last(plan, _own_keys(state_dict, prefix))
    first, channels = f'{prefix}{plan.layers[0].name}.conv.weight', plan.layers[0].in_channels
    if first in state_dict and state_dict[first].shape[1] == 3 != channels:
        weight = state_dict[first]
        repeated = weight[:, [i % 3 for i in range(channels)]] * (3 / channels)
        state_dict = {**state_dict, first: weight.sum(1, keepdim=True) if channels == 1 else repeated}
    load_into(backbone, state_dict, prefix=prefix, allow_left_over=beyond)


def check_meta(backbone: nn.Module, meta: Mapping[str, Any] | None) -> None:
    """Raises :class:`WeightsError` if weights are, by their file's ``meta``, for another padding or epsilon."""
    meant = (meta or {}).get('backbone')
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    if meant is None or not norms:
        return
    own = dict(padding=cast(Plan, backbone.plan).padding, eps=norms[0].eps)
    theirs = dict(padding=meant.get('padding', 'same'), eps=(meant.get('norm_cfg') or {}).get('eps', 1e-3))
    if own != theirs:
        options = ', '.join(f'{name}={value!r}' for name, value in meant.items())
        raise WeightsError(
            f'the weights of {(meta or {}).get("source", "the file")} are for {theirs}, the backbone has {own}: build '
            f'it with {options or "its default padding and norm_cfg"}'
        )


def beyond_the_last(plan: Plan, keys: Iterable[str]) -> list[str]:
    """The layers, and the convolutions of the last one built, that come after what a plan builds.

    ``keys`` are those of weights, without a prefix.
    """
    last = plan.layers[-1]
    layers = {key.partition('.')[0] for key in keys if key.startswith('layer_')}
    beyond = sorted(name for name in layers if _number(name) > _number(last.name))
    if last.op == 'bottleneck':
        beyond += [f'{last.name}.{module}' for step, module in STEP_MODULES.items() if step not in last.steps]
    return beyond


def _number(layer: str) -> int:
    return int(layer.removeprefix('layer_'))


def _named(**problems: list[str]) -> list[str]:
    """One text for each kind of problem that there is."""
    return [f'{len(keys)} {kind.replace("_", " ")}: {listing(keys)}' for kind, keys in problems.items() if keys]


def _own_keys(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}


def _within(key: str, parts: Sequence[str]) -> bool:
    return any(key == part or key.startswith(f'{part.rstrip(".")}.') for part in parts)


def _hint(module: nn.Module, state_dict: Mapping[str, Tensor]) -> str:
    """Whether the widths differ, as a part of a message."""
    keys = [key for key in state_dict if key.endswith('layer_1.conv.weight')]
    if not keys:
        return ': they are not in the layout of this package; mnv2 convert converts them'
    prefix = keys[0].removesuffix('layer_1.conv.weight')
    options = find_options({f'backbone.{key}': value for key, value in _own_keys(state_dict, prefix).items()})
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
