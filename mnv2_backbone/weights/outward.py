"""Our backbone's weights under the names that OpenMMLab's own MobileNetV2 has for them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .imported import WeightsError

#: What each library calls the expansion, the depthwise convolution and the projection of a block.
LAYOUTS: Mapping[str, tuple[str, str, str]] = {
    'mmdet': ('expand_conv', 'depthwise_conv', 'linear_conv'),
    'mmseg': ('conv.0', 'conv.1', 'conv.2'),  # MMPretrain's too
}
#: Blocks of each of its stages.
_STAGES = (1, 2, 3, 4, 3, 3, 1)


def rename_for(library: str, state: Mapping[str, Tensor], prefix: str = 'backbone.') -> dict[str, Tensor]:
    """Renames a backbone of the standard layer table.

    Args:
        library: A key of :data:`LAYOUTS`. MMSegmentation's network has no last 1x1 convolution: it is left out.
        state: Our layout.
        prefix: Of the backbone's names, kept in the result. Names without it are left out.

    Returns:
        The backbone in the library's layout.

    Raises:
        WeightsError: The library is unknown, or ``state`` has layers beyond the standard table.

    Examples:
        >>> list(rename_for('mmdet', {'backbone.layer_3.expand.conv.weight': torch.ones(96, 16, 1, 1)}))
        ['backbone.layer2.0.expand_conv.conv.weight']
    """
    if library not in LAYOUTS:
        raise WeightsError(f'layout {library}: allowed are {", ".join(LAYOUTS)}')
    blocks = [f'layer{stage}.{i}' for stage, count in enumerate(_STAGES, 1) for i in range(count)]
    names = {'layer_1.': 'conv1.', f'layer_{len(blocks) + 2}.': 'conv2.' if library == 'mmdet' else ''}
    for number, block in enumerate(blocks, start=2):
        steps = list(zip(('expand', 'depthwise', 'project'), LAYOUTS[library]))
        if number == 2:  # no expansion; where steps are numbered, they begin one earlier
            theirs = LAYOUTS[library][1:] if library == 'mmdet' else LAYOUTS[library][:2]
            steps = list(zip(('depthwise', 'project'), theirs))
        names.update({f'layer_{number}.{ours}.': f'{block}.{their}.' for ours, their in steps})
    renamed = {}
    for key, value in state.items():
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        old = next((old for old in names if name.startswith(old)), None)
        if old is None:
            raise WeightsError(f'{key}: the standard layer table has no such layer')
        if names[old]:
            renamed[prefix + names[old] + name.removeprefix(old)] = value
    return renamed
