"""Checkpoints of PyTorch libraries: torchvision, timm, OpenMMLab, Hugging Face, and our own.

Every library has the same convolutions in the same order. So a table says for each name which block (in order), which
convolution of the block and which of its two modules it is. Then the blocks are numbered, and the convolutions of a
block get their names from their number: two are the depthwise one and the projection, three begin with the expansion.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import WeightsError
from ..network.checkpoint import read_checkpoint
from ..spec import STEP_MODULES
from .formats import Imported, need

_TORCH_NORM: dict[str, Any] = dict(padding='explicit', norm_cfg=dict(type='BN', eps=1e-5, momentum=0.1))
#: The name of the first convolution's weights in each library, and the options of our backbone that make it the
#: library's.
LIBRARIES: dict[str, tuple[str, dict[str, Any]]] = {
    'torchvision': ('features.0.0.weight', _TORCH_NORM),
    'timm': ('conv_stem.weight', _TORCH_NORM),
    'OpenMMLab': ('conv1.conv.weight', _TORCH_NORM),
    'Hugging Face': ('conv_stem.first_conv.convolution.weight', {}),
}
#: Pattern of a module's name, and ``'BLOCK CONVOLUTION MODULE'``; the first match counts. BLOCK is a number, or several
#: with points, and sorts the blocks.
_MODULES = {
    # torchvision
    r'features\.(\d+)\.([01])': r'\1 0 \2',
    r'features\.(\d+)\.conv\.(\d)\.([01])': r'\1 \2 \3',
    r'features\.1\.conv\.1': r'1 1 conv',  # no expansion, so the projection comes one earlier
    r'features\.1\.conv\.2': r'1 1 bn',
    r'features\.(\d+)\.conv\.2': r'\1 2 conv',
    r'features\.(\d+)\.conv\.3': r'\1 2 bn',
    # timm
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
    # OpenMMLab: MMSegmentation and MMPretrain, then MMDetection
    r'conv1\.(conv|bn)': r'0 0 \1',
    r'layer(\d)\.(\d+)\.conv\.(\d)\.(conv|bn)': r'\1.\2 \3 \4',
    r'layer(\d)\.(\d+)\.expand_conv\.(conv|bn)': r'\1.\2 0 \3',
    r'layer(\d)\.(\d+)\.depthwise_conv\.(conv|bn)': r'\1.\2 1 \3',
    r'layer(\d)\.(\d+)\.linear_conv\.(conv|bn)': r'\1.\2 2 \3',
    r'conv2\.(conv|bn)': r'99 0 \1',
    # Hugging Face
    r'conv_stem\.first_conv\.(\w+)': r'0 0 \1',
    r'conv_stem\.conv_3x3\.(\w+)': r'1 1 \1',
    r'conv_stem\.reduce_1x1\.(\w+)': r'1 2 \1',
    r'layer\.(\d+)\.expand_1x1\.(\w+)': r'2.\1 0 \2',
    r'layer\.(\d+)\.conv_3x3\.(\w+)': r'2.\1 1 \2',
    r'layer\.(\d+)\.reduce_1x1\.(\w+)': r'2.\1 2 \2',
    r'conv_1x1\.(\w+)': r'3 0 \1',
}
#: Pattern of a name beside the backbone, and our key.
_HEADS = {
    r'(?:classifier(?:\.1)?|head\.fc)\.(weight|bias)': r'head.logits.\1',
    r'segmentation_head\.conv_pool\.(\w+)\.(\w+)': r'decode_head.image_pool.\1.\2',
    r'segmentation_head\.conv_aspp\.(\w+)\.(\w+)': r'decode_head.aspp0.\1.\2',
    r'segmentation_head\.conv_projection\.(\w+)\.(\w+)': r'decode_head.project.\1.\2',
    r'segmentation_head\.classifier\.convolution\.(\w+)': r'decode_head.conv_seg.\1',
}
#: The libraries' names of a convolution and of its norm, and ours.
_PARTS = {'0': 'conv', '1': 'bn', 'convolution': 'conv', 'normalization': 'bn'}
_STEPS = [f'{module}.' for module in STEP_MODULES.values()]
_OWN = re.compile(r'(backbone|head|neck|bbox_head|decode_head)\.')


def read_pytorch(path: Path) -> Imported:
    """Reads a state dict that ``torch.save`` wrote, alone or under ``state_dict`` or ``model``; weights only."""
    checkpoint = read_checkpoint(path)
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    for name in ('state_dict', 'model'):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(name), Mapping):
            checkpoint = checkpoint[name]
            break
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f'this checkpoint holds a {type(checkpoint).__name__}, not a state dict')
    imported = from_pytorch({k: v for k, v in checkpoint.items() if isinstance(v, Tensor)})
    if imported.meta is not None and isinstance(meta, Mapping):
        imported.meta.update({name: meta[name] for name in ('backbone', 'folded', 'dataset_meta') if name in meta})
    return imported


def read_safetensors(path: Path) -> Imported:
    """Reads a ``.safetensors`` file; see :func:`read_pytorch`."""
    return from_pytorch(need('safetensors.torch', 'safetensors', '.safetensors').load_file(path))


def from_pytorch(state: Mapping[str, Tensor]) -> Imported:
    """Converts a library's state dict, alone or inside that of a larger model, whose other parts are unknown.

    A prefix before the backbone's names is found automatically; there must be exactly one backbone.
    """
    if 'backbone.layer_1.conv.weight' in state:
        known = {key: value for key, value in state.items() if _OWN.match(key)}
        return Imported(_drop_counters(known), sorted(set(state) - set(known)), meta={})
    marks = [
        (library, key.removesuffix(mark))
        for library, (mark, _) in LIBRARIES.items()
        for key in state
        if re.search(rf'(^|\.){re.escape(mark)}$', key)
    ]
    if not marks:
        raise WeightsError(f'no MobileNetV2 of {", ".join(LIBRARIES)} in this checkpoint')
    if len(marks) > 1:
        found = ', '.join(f'{library} under {prefix!r}' for library, prefix in marks)
        raise WeightsError(f'several backbones in one checkpoint: {found}')
    library, prefix = marks[0]
    imported = Imported(options=dict(LIBRARIES[library][1]))
    blocks: dict[tuple[int, ...], dict[int, dict[str, Tensor]]] = defaultdict(lambda: defaultdict(dict))
    for key, value in _drop_counters(state).items():
        inner = key.removeprefix(prefix)
        module, _, leaf = inner.rpartition('.')
        place = _translate(_MODULES, module) if key.startswith(prefix) else None
        if place:
            block, convolution, part = place.split()
            order = tuple(int(number) for number in block.split('.'))
            blocks[order][int(convolution)][f'{_PARTS.get(part, part)}.{leaf}'] = value
            continue
        head = _translate(_HEADS, inner) or _translate(_HEADS, key)
        if head is None:
            imported.unknown.append(key)
        else:
            head = '.'.join(_PARTS.get(part, part) for part in head.split('.'))
            plain = value[..., None, None] if head == 'head.logits.weight' and value.ndim == 2 else value
            imported.state[head] = plain
    for number, order in enumerate(sorted(blocks), start=1):
        convolutions = blocks[order]
        names = {1: [''], 2: _STEPS[1:], 3: _STEPS}
        steps = names.get(len(convolutions), [f'{i}.' for i in range(len(convolutions))])
        for step, index in zip(steps, sorted(convolutions)):
            for leaf, value in convolutions[index].items():
                imported.state[f'backbone.layer_{number}.{step}{leaf}'] = value
    return imported


def _translate(table: Mapping[str, str], name: str) -> str | None:
    for pattern, template in table.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(template)
    return None


def _drop_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the counters of batch norms, which no norm here uses (all have a fixed momentum)."""
    return {key: value for key, value in state.items() if not key.endswith('num_batches_tracked')}
