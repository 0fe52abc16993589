"""DeepLabv3-lite with DeepLabv3+'s skip at stride 4 on CamVid: 2.27 M parameters, 3.45 G multiply-adds.

mnv2 train deeplabv3plus_mnv2_camvid.py

This recipe has not been run to its end.
"""

_base_ = './deeplabv3lite_mnv2_camvid.py'
model = dict(
    backbone=dict(out_indices=('layer_4/depthwise_output', 'layer_18')),
    decode_head=dict(skip_channels=48, separable=True),
)
