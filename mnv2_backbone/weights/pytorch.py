"""Checkpoints of PyTorch libraries: torchvision, timm, OpenMMLab, Hugging Face, and our own.

Every library has the same convolutions in the same order, so a table tells for each of its names which
block (in order), which convolution of the block and which of its two modules it is; the blocks are then
counted, and the convolutions of a block named after their number: two are the depthwise one and the
projection, three have the expansion before them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..runtime.checkpoint import allow_mmengine_checkpoints, read_checkpoint
from .imported import Imported, WeightsError, need

_TORCH_NORM: dict[str, Any] = dict(
    padding='explicit', norm_cfg=dict(type='BN', eps=1e-5, momentum=0.1)
)
_STEPS = {1: ('',), 2: ('depthwise.', 'project.'), 3: ('expand.', 'depthwise.', 'project.')}
_LOGITS = {r'classifier\.(weight|bias)': r'head.logits.\1'}


@dataclass(frozen=True)
class Library:
    """How a library names MobileNetV2.

    Attributes:
        name: For messages.
        mark: The name of the first convolution's weights.
        names: Pattern of a module's name, and ``'BLOCK CONVOLUTION MODULE'``; the first match counts.
            BLOCK is a number, or several with points, and sorts the blocks.
        heads: Pattern of a name beside the backbone, and our key.
        options: Options of our backbone that make it the library's.
    """

    name: str
    mark: str
    names: Mapping[str, str]
    heads: Mapping[str, str]
    options: Mapping[str, Any]


LIBRARIES = (
    Library(
        'torchvision',
        'features.0.0.weight',
        {
            r'features\.(\d+)\.0': r'\1 0 conv',
            r'features\.(\d+)\.1': r'\1 0 bn',
            r'features\.(\d+)\.conv\.(\d)\.0': r'\1 \2 conv',
            r'features\.(\d+)\.conv\.(\d)\.1': r'\1 \2 bn',
            r'features\.1\.conv\.1': r'1 1 conv',  # no expansion, so the projection comes one earlier
            r'features\.1\.conv\.2': r'1 1 bn',
            r'features\.(\d+)\.conv\.2': r'\1 2 conv',
            r'features\.(\d+)\.conv\.3': r'\1 2 bn',
        },
        {r'classifier\.1\.(weight|bias)': r'head.logits.\1'},
        _TORCH_NORM,
    ),
    Library(
        'timm',
        'conv_stem.weight',
        {
            r'conv_stem': '-1 1 conv',
            r'bn1': '-1 1 bn',
            r'blocks\.(0\.\d+)\.conv_dw': r'\1 1 conv',
            r'blocks\.(0\.\d+)\.conv_pw': r'\1 2 conv',
            r'blocks\.(\d+\.\d+)\.conv_pw': r'\1 1 conv',
            r'blocks\.(\d+\.\d+)\.conv_dw': r'\1 2 conv',
            r'blocks\.(\d+\.\d+)\.conv_pwl': r'\1 3 conv',
            r'blocks\.(\d+\.\d+)\.bn(\d)': r'\1 \2 bn',
            r'conv_head': '99 1 conv',
            r'bn2': '99 1 bn',
        },
        _LOGITS,
        _TORCH_NORM,
    ),
    Library(
        'OpenMMLab',
        'conv1.conv.weight',
        {
            r'conv1\.(conv|bn)': r'0 0 \1',
            r'layer(\d)\.(\d+)\.conv\.(\d)\.(conv|bn)': r'\1.\2 \3 \4',  # MMSegmentation, MMPretrain
            r'layer(\d)\.(\d+)\.expand_conv\.(conv|bn)': r'\1.\2 0 \3',  # MMDetection
            r'layer(\d)\.(\d+)\.depthwise_conv\.(conv|bn)': r'\1.\2 1 \3',
            r'layer(\d)\.(\d+)\.linear_conv\.(conv|bn)': r'\1.\2 2 \3',
            r'conv2\.(conv|bn)': r'99 0 \1',
        },
        {r'head\.fc\.(weight|bias)': r'head.logits.\1'},
        _TORCH_NORM,
    ),
    Library(
        'Hugging Face',
        'conv_stem.first_conv.convolution.weight',
        {
            r'conv_stem\.first_conv\.(\w+)': r'0 0 \1',
            r'conv_stem\.conv_3x3\.(\w+)': r'1 1 \1',
            r'conv_stem\.reduce_1x1\.(\w+)': r'1 2 \1',
            r'layer\.(\d+)\.expand_1x1\.(\w+)': r'2.\1 0 \2',
            r'layer\.(\d+)\.conv_3x3\.(\w+)': r'2.\1 1 \2',
            r'layer\.(\d+)\.reduce_1x1\.(\w+)': r'2.\1 2 \2',
            r'conv_1x1\.(\w+)': r'3 0 \1',
        },
        {
            **_LOGITS,
            r'segmentation_head\.conv_pool\.(\w+)\.(\w+)': r'decode_head.image_pool.\1.\2',
            r'segmentation_head\.conv_aspp\.(\w+)\.(\w+)': r'decode_head.aspp0.\1.\2',
            r'segmentation_head\.conv_projection\.(\w+)\.(\w+)': r'decode_head.project.\1.\2',
            r'segmentation_head\.classifier\.convolution\.(\w+)': r'decode_head.conv_seg.\1',
        },
        {},
    ),
)
_OWN = re.compile(r'(backbone|head|neck|bbox_head|decode_head)\.')


def read_pytorch(path: Path) -> Imported:
    """Reads a checkpoint that ``torch.save`` wrote, weights only.

    Args:
        path: A state dict, or a dict that holds one under ``state_dict`` or ``model``.

    Raises:
        CheckpointError: The file is damaged, or holds more than data.
        WeightsError: There is no MobileNetV2 in it.
    """
    allow_mmengine_checkpoints()
    checkpoint = read_checkpoint(path)
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    for name in ('state_dict', 'model'):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(name), Mapping):
            checkpoint = checkpoint[name]
            break
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f'this checkpoint holds a {type(checkpoint).__name__}, not a state dict')
    imported = from_pytorch({k: v for k, v in checkpoint.items() if isinstance(v, Tensor)})
    known = meta.get('backbone') if isinstance(meta, Mapping) else None
    if isinstance(known, Mapping):  # a file that was converted before says what its weights are for
        imported.options.update(known)
    return imported


def read_safetensors(path: Path) -> Imported:
    """Reads a ``.safetensors`` file; see :func:`read_pytorch`."""
    return from_pytorch(need('safetensors.torch', 'safetensors', '.safetensors').load_file(path))


def from_pytorch(state: Mapping[str, Tensor]) -> Imported:
    """Converts a library's state dict, alone or inside that of a larger model.

    Args:
        state: The library's names; a prefix before the backbone's is found by itself.

    Returns:
        The weights in our layout; other parts of a larger model are unknown.

    Raises:
        WeightsError: The names are of no library known here, or there are several backbones.
    """
    if 'backbone.layer_1.conv.weight' in state:
        known = {key: value for key, value in state.items() if _OWN.match(key)}
        return Imported(_drop_counters(known), sorted(set(state) - set(known)))
    marks = [
        (library, key.removesuffix(library.mark))
        for library in LIBRARIES
        for key in state
        if re.search(rf'(^|\.){re.escape(library.mark)}$', key)
    ]
    if len(marks) != 1:
        found = ', '.join(f'{library.name} under {prefix!r}' for library, prefix in marks)
        raise WeightsError(
            f'several backbones in one checkpoint: {found}'
            if marks
            else 'no MobileNetV2 of ' + ', '.join(x.name for x in LIBRARIES) + ' in this checkpoint'
        )
    library, prefix = marks[0]
    imported = Imported(options=dict(library.options))
    blocks: dict[tuple[int, ...], dict[int, dict[str, Tensor]]] = defaultdict(lambda: defaultdict(dict))
    for key, value in _drop_counters(state).items():
        inner = key.removeprefix(prefix)
        module, _, leaf = inner.rpartition('.')
        place = _translate(library.names, module) if key.startswith(prefix) else None
        if place:
            block, convolution, part = place.split()
            order = tuple(int(number) for number in block.split('.'))
            blocks[order][int(convolution)][f'{_ours(part)}.{leaf}'] = value
            continue
        head = _translate(library.heads, inner) or _translate(library.heads, key)
        if head is None:
            imported.unknown.append(key)
        else:
            head = '.'.join(_ours(part) for part in head.split('.'))
            plain = value[..., None, None] if head == 'head.logits.weight' and value.ndim == 2 else value
            imported.state[head] = plain
    for number, order in enumerate(sorted(blocks), start=1):
        convolutions = blocks[order]
        steps = _STEPS.get(len(convolutions), [f'{i}.' for i in range(len(convolutions))])
        for step, index in zip(steps, sorted(convolutions)):
            for leaf, value in convolutions[index].items():
                imported.state[f'backbone.layer_{number}.{step}{leaf}'] = value
    return imported


def _translate(table: Mapping[str, str], name: str) -> str | None:
    for pattern, template in table.items():
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(template)
    return None


def _ours(part: str) -> str:
    return {'convolution': 'conv', 'normalization': 'bn'}.get(part, part)


def _drop_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the counters of batch norms, which matter to no norm here (all have a fixed momentum)."""
    return {key: value for key, value in state.items() if not key.endswith('num_batches_tracked')}
