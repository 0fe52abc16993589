"""Lite R-ASPP on CamVid from ImageNet weights: 1.98 M parameters, 1.66 G multiply-adds.

mnv2 train lraspp_mnv2_camvid.py

This recipe has not been run to its end.
"""

_base_ = './deeplabv3lite_mnv2_camvid.py'
model = dict(
    backbone=dict(out_indices=('layer_7/depthwise_output', 'layer_18')),
    decode_head=dict(type='mnv2_backbone.LRASPP', channels=256),
)
