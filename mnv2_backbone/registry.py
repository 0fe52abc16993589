"""The package's own scope in mmengine's registry tree.

``type='mnv2_backbone.MobileNetV2'`` works in any mm config without an import: mmengine imports
``<scope>.registry`` when it meets an unknown scope, and :class:`RoomRegistry` then imports the one module
that holds the name. So the backbone is there without MMDetection, and the heads come when asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TASK_UTILS as MMENGINE_TASK_UTILS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

SCOPE = 'mnv2_backbone'

#: The module in which each registered name lives.
ROOMS = {
    'CheckedLoadHook': 'weights.hook',
    'MobileNetV2': 'backbone',
    'SyncBN': 'layers',
    'SlimClsHead': 'classifier',
    'SSDLite': 'ssdlite',
    'SSDLiteNeck': 'ssdlite',
    'SSDLiteHead': 'ssdlite',
    'TFAnchorGenerator': 'ssdlite',
    'DeepLab': 'deeplab',
    'DeepLabHead': 'deeplab',
    'LRASPP': 'deeplab',
    'IndexedIoUMetric': 'masks',
    'TFResize': 'transforms',
    'SSDAugment': 'augment',
    'LoadImage': 'runtime.images',
    'SkippedImagesHook': 'runtime.images',
    'ReproducibleHook': 'runtime.reproducible',
    'AtomicCheckpointHook': 'runtime.saving',
    'BFloat16OptimWrapper': 'runtime.amp',
    'ExportedModel': 'deployment.model',
}


class RoomRegistry(Registry):
    """A registry that imports the module of a name when the name is first asked for."""

    def get(self, key: str) -> Any:
        """Returns the class registered under ``key``; see :class:`mmengine.Registry`."""
        if key in ROOMS:
            import_module(f'{SCOPE}.{ROOMS[key]}')
        return super().get(key)


MODELS = RoomRegistry('model', parent=MMENGINE_MODELS, scope=SCOPE)
TASK_UTILS = RoomRegistry('task util', parent=MMENGINE_TASK_UTILS, scope=SCOPE)
TRANSFORMS = RoomRegistry('transform', parent=MMENGINE_TRANSFORMS, scope=SCOPE)
HOOKS = RoomRegistry('hook', parent=MMENGINE_HOOKS, scope=SCOPE)
METRICS = RoomRegistry('metric', parent=MMENGINE_METRICS, scope=SCOPE)
OPTIM_WRAPPERS = RoomRegistry('optimizer wrapper', parent=MMENGINE_OPTIM_WRAPPERS, scope=SCOPE)
