"""What the backbone's weights must be, from its plan: to check a file, and to tell the width it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ..spec import Layer, Plan, make_plan
from .imported import WeightsError, listing

PARTS = ('backbone', 'head', 'neck', 'bbox_head', 'decode_head')
NORM = ('weight', 'bias', 'running_mean', 'running_var')
#: Widths that are tried; Google's are .35, .5, .75, 1, 1.3 and 1.4.
_WIDTHS = (1.0, *(round(0.05 * i, 2) for i in range(1, 61) if i != 20))


def backbone_shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Key and shape of every tensor of a backbone with batch norms."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in plan.layers:
        for step, shape in _convolutions(layer):
            module = f'backbone.{layer.name}.{step}'
            shapes[f'{module}conv.weight'] = shape
            shapes.update({f'{module}bn.{leaf}': shape[:1] for leaf in NORM})
    return shapes


def _convolutions(layer: Layer) -> Iterator[tuple[str, tuple[int, ...]]]:
    if layer.op == 'conv':
        yield '', (layer.out_channels, layer.in_channels, layer.kernel, layer.kernel)
        return
    if layer.expand_parts:
        yield 'expand.', (layer.expanded_channels, layer.in_channels, 1, 1)
    yield 'depthwise.', (layer.expanded_channels, 1, layer.kernel, layer.kernel)
    yield 'project.', (layer.out_channels, layer.expanded_channels, 1, 1)


def find_options(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The options of :func:`mnv2_backbone.make_plan` that give a file's channels, other than defaults.

    Args:
        state: Our layout, ``backbone.*``.

    Returns:
        ``widen_factor``, ``finegrain``, ``min_depth``, ``divisible_by``; None if no width of the standard table fits.
    """
    found = {key: tuple(value.shape) for key, value in state.items() if key.endswith('conv.weight')}
    for options in _candidates():
        shapes = backbone_shapes(make_plan(out_indices='layer_19', **options))
        ours = {key: shape for key, shape in found.items() if key.startswith('backbone.')}
        if ours and all(shapes.get(key) == shape for key, shape in ours.items()):
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
    """Checks that no tensor of the backbone is missing, up to the last layer that is there.

    Raises:
        WeightsError: Some are missing or have the wrong shape; the message lists them.
    """
    plan = make_plan(out_indices='layer_19', **options)
    last = max(int(key.split('.')[1].removeprefix('layer_')) for key in state if key.startswith('backbone.'))
    shapes = backbone_shapes(plan)
    wanted = {key: shape for key, shape in shapes.items() if int(key.split('.')[1].split('_')[1]) <= last}
    missing = [key for key in wanted if key not in state]
    wrong = [key for key, shape in wanted.items() if key in state and tuple(state[key].shape) != shape]
    if missing or wrong:
        raise WeightsError(
            'the backbone is not complete: '
            + '; '.join(
                f'{len(names)} {what}: {listing(names)}'
                for what, names in (('missing', missing), ('of the wrong shape', wrong))
                if names
            )
        )
