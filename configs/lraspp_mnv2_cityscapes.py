"""Lite R-ASPP on Cityscapes: the MobileNetV3 paper's "V2 RF2 LR-ASPP", 1.03 M, 12.8 G multiply-adds.

    tools/dist_train.sh configs/lraspp_mnv2_cityscapes.py 4 --cfg-options train_dataloader.batch_size=2

This recipe has not been run; the paper reports 72.97 mIoU, and 72.74 with decode_head.channels=128.
"""

_base_ = './deeplabv3lite_mnv2_cityscapes.py'

# slim's table with the rows from layer_15 on halved: the paper's RF2.
table = [(16, 1, 1, 1), (24, 2, 2, 6), (32, 3, 2, 6), (64, 4, 2, 6), (96, 3, 1, 6), (80, 3, 2, 6), (160, 1, 1, 6)]
spec = [dict(op='conv', out=32, stride=2)] + [
    dict(op='bottleneck', out=out, stride=stride if i == 0 else 1, expand=expand)
    for out, repeats, stride, expand in table
    for i in range(repeats)
]

model = dict(
    backbone=dict(
        spec=spec,
        # The finer feature map is inside the last block of stride 8; it matches the paper's count.
        out_indices=('layer_7/depthwise_output', 'layer_18'),
        # From scratch as in the paper: no published weights have this shape.
        init_cfg=[
            dict(type='TruncNormal', layer='Conv2d', std=0.09, a=-0.18, b=0.18),
            dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1.0),
        ],
    ),
    decode_head=dict(type='mnv2_backbone.LRASPP', channels=256, pool_size=(49, 49), pool_stride=(16, 20)),
)
