"""The scope ``mnv2_backbone`` in mmengine's registries, and the table of everything that is registered there.

``type='mnv2_backbone.MobileNetV2'`` works in any mm config without an import: mmengine imports ``<scope>.registry``
when it meets a scope that it does not know, and :class:`LazyRegistry` imports the one module that a name needs. So the
backbone works without MMDetection, and a head is imported when it is asked for.
"""

from importlib import import_module
from typing import Any

from mmengine import registry
from mmengine.registry import Registry

SCOPE = 'mnv2_backbone'

_NAMES = {
    'network.backbone': ('MobileNetV2',),
    'network.layers': ('ReLU6', 'SyncBN'),
    'network.classifier': ('SlimClsHead',),
    'network.anchors': ('TFAnchorGenerator',),
    'network.ssdlite': ('SSDLite', 'SSDLiteHead', 'SSDLiteNeck'),
    'network.fpnlite': ('FPNLiteHead', 'FPNLiteNeck', 'FPNLiteAnchorGenerator'),
    'network.deeplab': ('DeepLab', 'DeepLabHead', 'LRASPP'),
    'data.images': ('LoadImage', 'SkippedImagesHook'),
    'data.augment': ('SSDAugment',),
    'data.resize': ('TFResize',),
    'data.masks': ('IndexedIoUMetric',),
    'weights.hook': ('CheckedLoadHook',),
    'deployment.predictor': ('ExportedModel',),
    'training.cpu': ('BFloat16OptimWrapper',),
    'training.reproducible': ('ReproducibleHook',),
    'training.saving': ('AtomicCheckpointHook',),
}
#: The module of each registered name.
MODULES = {name: module for module, names in _NAMES.items() for name in names}


class LazyRegistry(Registry):
    """A registry that imports the module of a name when the name is first asked for."""

    def get(self, key: str) -> Any:
        """Returns the class registered as ``key``; see :class:`mmengine.Registry`."""
        if key in MODULES:
            import_module(f'{SCOPE}.{MODULES[key]}')
        return super().get(key)


MODELS = LazyRegistry('model', parent=registry.MODELS, scope=SCOPE)
TASK_UTILS = LazyRegistry('task util', parent=registry.TASK_UTILS, scope=SCOPE)
TRANSFORMS = LazyRegistry('transform', parent=registry.TRANSFORMS, scope=SCOPE)
HOOKS = LazyRegistry('hook', parent=registry.HOOKS, scope=SCOPE)
METRICS = LazyRegistry('metric', parent=registry.METRICS, scope=SCOPE)
OPTIM_WRAPPERS = LazyRegistry('optimizer wrapper', parent=registry.OPTIM_WRAPPERS, scope=SCOPE)
