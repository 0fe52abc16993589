"""Our backbone's weights under the names that OpenMMLab's own MobileNetV2 has for them."""

from collections.abc import Mapping

from torch import Tensor

from mnv2_backbone.errors import WeightsError
from mnv2_backbone.network.fit import backbone_shapes
from mnv2_backbone.spec import make_plan
from mnv2_backbone.weights.formats import LAYOUTS

#: Of batch norms, which no norm here uses: all have a fixed momentum.
COUNTER = 'num_batches_tracked'


def rename_for(library: str, state: Mapping[str, Tensor], prefix: str = 'backbone.') -> dict[str, Tensor]:
    """Renames a backbone of the standard layer table as the library (which has to be installed) names its own.

    All networks have the same tensors in the same order, so the names are the library's own, one after the other.
    MMSegmentation's network has no last 1x1 convolution: it is left out, as are other parts of ``state``.
    """
    if library == 'mmdet':
        from mmdet.models.backbones import MobileNetV2
    elif library == 'mmseg':
        from mmseg.models.backbones import MobileNetV2
    else:
        raise WeightsError(f'layout {library}: allowed are {", ".join(LAYOUTS)}')
    theirs = [key for key in MobileNetV2().state_dict() if not key.endswith(COUNTER)]
    ours = list(backbone_shapes(make_plan(out_indices='layer_19')))
    names = dict(zip(ours, [*theirs, *[''] * (len(ours) - len(theirs))]))
    backbone = {key: value for key, value in state.items() if key.startswith('backbone.') and not key.endswith(COUNTER)}
    if unknown := [key for key in backbone if key not in names]:
        raise WeightsError(f'{unknown[0]}: the standard layer table has no such layer')
    return {prefix + names[key]: value for key, value in backbone.items() if names[key]}
