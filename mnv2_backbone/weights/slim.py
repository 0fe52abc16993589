"""TF-slim variables, by their TensorFlow names (``MobilenetV2/expanded_conv_3/expand/weights``).

Everything that comes from TensorFlow passes through here: graphs, ``.tflite`` and Keras files are first converted to
these names and TensorFlow's layout, and from there to ours.
"""

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..spec import V2_DEF, Row
from .detector import to_mm_order
from .formats import Imported

Arrays = Mapping[str, np.ndarray]

#: TensorFlow's name of a variable inside its layer, and ours.
LEAVES = {
    'weights': 'conv.weight',
    'depthwise_weights': 'conv.weight',
    'biases': 'conv.bias',
    'BatchNorm/gamma': 'bn.weight',
    'BatchNorm/beta': 'bn.bias',
    'BatchNorm/moving_mean': 'bn.running_mean',
    'BatchNorm/moving_variance': 'bn.running_var',
}
LOGITS_SCOPE = 'MobilenetV2/Logits/Conv2d_1c_1x1'
#: Scopes beside the layers of the backbone, and our modules. Those that end in ``.`` hold a convolution with its norm,
#: the others a plain convolution.
HEADS = {
    LOGITS_SCOPE: r'head.logits',
    r'MobilenetV2/layer_19_1_Conv2d_(\d+)_1x1_\d+': r'neck.extra_layers.\1.0.',
    r'MobilenetV2/layer_19_2_Conv2d_(\d+)_3x3_s2_\d+_depthwise': r'neck.extra_layers.\1.1.',
    r'MobilenetV2/layer_19_2_Conv2d_(\d+)_3x3_s2_\d+': r'neck.extra_layers.\1.2.',
    r'BoxPredictor_(\d+)/ClassPredictor_depthwise': r'bbox_head.cls_convs.\1.0.',
    r'BoxPredictor_(\d+)/ClassPredictor': r'bbox_head.cls_convs.\1.1',
    r'BoxPredictor_(\d+)/BoxEncodingPredictor_depthwise': r'bbox_head.reg_convs.\1.0.',
    r'BoxPredictor_(\d+)/BoxEncodingPredictor': r'bbox_head.reg_convs.\1.1',
    r'image_pooling': r'decode_head.image_pool.',
    r'aspp0': r'decode_head.aspp0.',
    r'concat_projection': r'decode_head.project.',
    r'logits/semantic': r'decode_head.conv_seg',
}
#: What a training run stores beside the variables.
_STATE = re.compile(r'(^|/)(global_step|Momentum|RMSProp(_1)?|Adam(_1)?)$')
_AVERAGE = '/ExponentialMovingAverage'


def to_torch_layout(name: str, array: np.ndarray) -> Tensor:
    """A variable in torch's layout: HWIO to OIHW, depthwise HWC1 to C1HW, others as they are."""
    if name.endswith('depthwise_weights'):
        array = array.transpose(2, 3, 0, 1)
    elif array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    return torch.from_numpy(np.array(array, dtype=np.float32, order='C'))


def backbone_scopes(spec: tuple[Row, ...] = V2_DEF) -> dict[str, str]:
    """Our name of each layer by slim's scope (``Conv``, ``expanded_conv``, ``expanded_conv_1`` ...)."""
    scopes, counts = {}, {'conv': 0, 'bottleneck': 0}
    for number, row in enumerate(spec, start=1):
        base = 'Conv' if row.op == 'conv' else 'expanded_conv'
        count = counts[row.op]
        scopes[f'{base}_{count}' if count else base] = f'layer_{number}'
        counts[row.op] += 1
    return scopes


def from_slim(variables: Arrays, spec: tuple[Row, ...] = V2_DEF) -> Imported:
    """Converts slim's MobileNetV2 with its classifier, the SSDLite detector, or the DeepLab segmenter.

    ``variables`` are by TensorFlow name, in TensorFlow's layout. Moving averages of a training run are used in place of
    the variables, as in TensorFlow's own evaluation; ``global_step``, momenta and the like are left out.
    """
    averages = {name.removesuffix(_AVERAGE): x for name, x in variables.items() if name.endswith(_AVERAGE)}
    plain = {
        name: averages.get(name, array)
        for name, array in variables.items()
        if not name.endswith(_AVERAGE) and not _STATE.search(name)
    }
    scopes = backbone_scopes(spec)
    found = Imported()
    for name, array in plain.items():
        key = _key(name, scopes)
        if key is None:
            found.unknown.append(name)
        else:
            found.state[key] = to_torch_layout(name, array)
    found.state = to_mm_order(found.state)
    return found


def _key(name: str, scopes: Mapping[str, str]) -> str | None:
    """Our key of a variable, or None if it has no place in our networks."""
    leaf = next((leaf for leaf in LEAVES if name.endswith(f'/{leaf}')), None)
    if leaf is None:
        return None
    scope = name.removesuffix(f'/{leaf}')
    scope = scope[scope.index('MobilenetV2/') :] if 'MobilenetV2/' in scope else scope
    for pattern, module in HEADS.items():
        match = re.fullmatch(pattern, scope)
        if match:
            module = match.expand(module)
            if module.startswith('neck.'):  # TensorFlow counts the extra maps from 2
                module = re.sub(r'\d+', lambda number: str(int(number[0]) - 2), module, count=1)
            if module.endswith('.'):
                return module + LEAVES[leaf]
            return {'weights': f'{module}.weight', 'biases': f'{module}.bias'}.get(leaf)
    layer, _, step = scope.removeprefix('MobilenetV2/').partition('/')
    if layer not in scopes:
        return None
    step = re.sub(r'_part_(\d+)$', r'.\1', step)  # slim's split_conv
    return '.'.join(part for part in ('backbone', scopes[layer], step, LEAVES[leaf]) if part)
