"""MobileNetV2 for dense prediction: a backbone exact to TF-slim, with SSDLite, FPNLite and DeepLabv3-lite on top.

Importing the package registers its scope with mmengine, ``mnv2://`` weights and ``_base_ = 'mnv2_backbone::NAME'``,
offers operators for an mmcv that is not compiled, and does nothing else. What needs PyTorch or MMDetection is imported
when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    import mmengine  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("mnv2_backbone needs mmengine: pip install 'mnv2_backbone[mm]'") from error

from .configs import config_path, let_configs_build_on_ours
from .finder import offer_operators
from .registry import MODULES
from .spec import V2_DEF, EndPoint, Plan, Row, feature_info, make_plan
from .weights.scheme import register_with_mmengine

if TYPE_CHECKING:
    from .deployment.deploy import deploy
    from .network.backbone import SLIM_INIT, SLIM_NORM, SLIM_PARAMWISE, MobileNetV2
    from .network.classifier import Classifier

__version__ = '0.1.0'

__all__ = ['SLIM_INIT', 'SLIM_NORM', 'SLIM_PARAMWISE', 'V2_DEF', 'Classifier', 'EndPoint', 'MobileNetV2', 'Plan', 'Row']
__all__ += ['config_path', 'deploy', 'feature_info', 'make_plan']

let_configs_build_on_ours()
offer_operators()
register_with_mmengine()

#: The module of each name that is imported when it is first used: all registered ones, and these.
_LAZY = {
    **MODULES,
    **dict.fromkeys(('SLIM_INIT', 'SLIM_NORM', 'SLIM_PARAMWISE'), 'network.backbone'),
    'Classifier': 'network.classifier',
    'deploy': 'deployment.deploy',
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(import_module(f'{__name__}.{_LAZY[name]}'), name)
    globals()[name] = value
    return value
