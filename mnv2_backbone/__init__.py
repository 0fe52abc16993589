"""MobileNetV2 for dense prediction: a backbone exact to TF-slim, SSDLite and DeepLabv3-lite on top."""

from typing import TYPE_CHECKING, Any

from .backbone import SLIM_INIT, SLIM_NORM, SLIM_PARAMWISE, MobileNetV2
from .classifier import Classifier
from .runtime.checkpoint import allow_mmengine_checkpoints
from .shipped import config_path, let_configs_build_on_ours
from .spec import V2_DEF, EndPoint, Plan, Row, feature_info, make_plan
from .weights import scheme  # noqa: F401 - registers mnv2:// with mmengine

if TYPE_CHECKING:
    from .deployment import deploy

__version__ = '0.1.0'

__all__ = [
    'SLIM_INIT',
    'SLIM_NORM',
    'SLIM_PARAMWISE',
    'V2_DEF',
    'Classifier',
    'EndPoint',
    'MobileNetV2',
    'Plan',
    'Row',
    'config_path',
    'deploy',
    'feature_info',
    'make_plan',
]

# Without it torch 2.6 and later refuse what mmengine saves: no resuming, no init_detector.
allow_mmengine_checkpoints()
let_configs_build_on_ours()


def __getattr__(name: str) -> Any:
    if name == 'deploy':  # brings MMDetection along, which the backbone alone does not need
        from .deployment import deploy

        return deploy
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
