"""FPNLite's variables in TensorFlow: Keras's names, and the paths of objects in the API's checkpoints."""

import re
from collections.abc import Mapping

import numpy as np

from .detector import State, to_mm_order
from .slim import LEAVES, to_torch_layout

_NORM = ('gamma', 'beta', 'moving_mean', 'moving_variance')
_VALUE = '/.ATTRIBUTES/VARIABLE_VALUE'
#: Keras's names of the layers with weights in MobileNetV2, in their order.
_LAYERS = ['Conv1', 'bn_Conv1']
for _block, _steps in [('expanded_conv', 'depthwise project')] + [
    (f'block_{i}', 'expand depthwise project') for i in range(1, 17)
]:
    _LAYERS += [f'{_block}_{step}{norm}' for step in _steps.split() for norm in ('', '_BN')]
_LAYERS += ['Conv_1', 'Conv_1_bn']

#: Keras's layers of the detector, and our modules; the numbers in them count from the number that follows.
_MODULES = (
    (r'top_down/projection_(\d+)', 'neck.lateral_convs.{}', 1),
    (r'top_down/smoothing_(\d+)_depthwise_conv', 'neck.smooth_convs.{}', 1),
    (r'top_down/smoothing_(\d+)_batchnorm', 'neck.smooth_convs.{}.1', 1),
    (r'bottom_up_Conv2d_(\d+)_depthwise_conv', 'neck.extra_layers.{}', 20),
    (r'bottom_up_Conv2d_(\d+)_batchnorm', 'neck.extra_layers.{}.1', 20),
    (r'PredictionTower/conv2d_(\d+)', 'bbox_head.convs.0.{}', 0),
    (r'PredictionTower/conv2d_(\d+)/BatchNorm/feature_(\d+)', 'bbox_head.norms.{1}.{0}', 0),
    (r'WeightSharedConvolutionalBoxHead/BoxPredictor', 'bbox_head.reg_convs.0', 0),
    (r'WeightSharedConvolutionalClassHead/ClassPredictor', 'bbox_head.cls_convs.0', 0),
)


def from_objects(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames the variables of an object-based checkpoint of the API as Keras calls them.

    The optimizer's and counters are left out; what is of no layer known here keeps its name.
    """
    weights = {
        name.removesuffix(_VALUE): array
        for name, array in arrays.items()
        if name.endswith(_VALUE) and '.OPTIMIZER_SLOT' not in name and not name.startswith('optimizer/')
    }
    # The pyramid's lists begin with its coarsest map, whose number is the highest.
    top = 1 + len({name.split('/residual_blocks/')[1].split('/')[0] for name in weights if '/residual_blocks/' in name})
    fpn = 'FeatureMaps/top_down'
    rules = (
        (r'layer_with_weights-(\d+)', lambda i: _LAYERS[i] if i < len(_LAYERS) else ''),
        (r'_fpn_features_generator/top_layers/0', lambda: f'{fpn}/projection_{top}'),
        (r'_fpn_features_generator/residual_blocks/(\d+)/0', lambda i: f'{fpn}/projection_{top - 1 - i}'),
        (r'_fpn_features_generator/conv_layers/(\d+)/0', lambda i: f'{fpn}/smoothing_{top - 1 - i}_depthwise_conv'),
        (r'_fpn_features_generator/conv_layers/(\d+)/1', lambda i: f'{fpn}/smoothing_{top - 1 - i}_batchnorm'),
        (r'_coarse_feature_layers/(\d+)/0', lambda i: f'bottom_up_Conv2d_{20 + i}_depthwise_conv'),
        (r'_coarse_feature_layers/(\d+)/1', lambda i: f'bottom_up_Conv2d_{20 + i}_batchnorm'),
        (r'_head_scope_conv_layers/PredictionTower/(\d+)', lambda i: f'PredictionTower/conv2d_{i}'),
        (
            r'_base_tower_layers_for_heads/box_encodings/(\d+)/(\d+)',  # a convolution, a norm, an activation in turn
            lambda level, i: f'PredictionTower/conv2d_{(i - 1) // 3}/BatchNorm/feature_{level}',
        ),
        (r'_box_encoder_layers/0', lambda: 'WeightSharedConvolutionalBoxHead/BoxPredictor'),
        (r'_class_predictor_layers/0', lambda: 'WeightSharedConvolutionalClassHead/ClassPredictor'),
    )

    def renamed(name: str) -> str:
        path, _, leaf = name.rpartition('/')
        for pattern, rename in rules:
            if match := re.search(rf'/{pattern}$', path):
                return f'{rename(*map(int, match.groups()))}/{leaf}'
        return name

    return {renamed(name): array for name, array in weights.items() if '/' in name}


def from_detector(arrays: Mapping[str, np.ndarray]) -> tuple[State, set[str]]:
    """Converts what belongs to FPNLite's neck and head, by Keras's names; returns their names too."""
    keys = {name: key for name in arrays if (key := _key(name.partition(':')[0]))}
    state = {
        key: to_torch_layout('depthwise_weights' if 'depthwise_kernel' in name else '', arrays[name])
        for name, key in keys.items()
    }
    return to_mm_order(state), set(keys)


def _key(name: str) -> str | None:
    """Our key of a variable, or None if it has no place."""
    path, _, leaf = name.rpartition('/')
    for pattern, module, first in _MODULES:
        if match := re.search(rf'(^|/){pattern}$', path):
            module = module.format(*(int(number) - first for number in match.groups()[1:]))
            end = _leaves(module).get(leaf)
            return end and f'{module}.{end}'
    return None


def _leaves(module: str) -> dict[str, str]:
    """The ends of keys by Keras's: of a norm, a plain convolution, or a separable one, with a norm or without."""
    if 'norms' in module:
        return {leaf: LEAVES[f'BatchNorm/{leaf}'].removeprefix('bn.') for leaf in _NORM}
    if 'lateral' in module:
        return {'kernel': 'weight', 'bias': 'bias'}
    second = '1' if 'bbox_head' in module else '1.conv'
    separable = dict(depthwise_kernel='0.conv.weight', pointwise_kernel=f'{second}.weight', bias=f'{second}.bias')
    return separable | {leaf: LEAVES[f'BatchNorm/{leaf}'] for leaf in _NORM}
