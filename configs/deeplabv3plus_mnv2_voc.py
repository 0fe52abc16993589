"""The lite head with DeepLabv3+'s skip at stride 4, separable: 2.27 M parameters, 5.41 G multiply-adds.

    mnv2 train deeplabv3plus_mnv2_voc.py

Any end point serves as the finer map: name it first in ``out_indices``. This recipe has not been run.
"""

_base_ = './deeplabv3lite_mnv2_voc.py'
model = dict(
    backbone=dict(out_indices=('layer_4/depthwise_output', 'layer_18')),
    decode_head=dict(skip_channels=48, separable=True),
)
