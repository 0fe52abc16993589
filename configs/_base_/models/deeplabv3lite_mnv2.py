"""DeepLabv3 without atrous branches on MobileNetV2: 2.11 M parameters, 2.74 G multiply-adds at 513x513."""

model = dict(
    type='mnv2_backbone.DeepLab',
    # Padding comes after normalization: 0 stands for the mean, 127.5.
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5] * 3,
        std=[127.5] * 3,
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(513, 513),
        test_cfg=dict(size=(513, 513)),
    ),
    backbone=dict(
        type='mnv2_backbone.MobileNetV2',
        widen_factor=1.0,
        output_stride=16,
        out_indices=('layer_18',),
        norm_cfg=dict(type='mnv2_backbone.SyncBN', momentum=0.003, eps=0.001),
        init_cfg=dict(type='Pretrained', checkpoint='mnv2://imagenet-1.0'),
    ),
    # Channels and output stride come from the backbone.
    decode_head=dict(
        type='mnv2_backbone.DeepLabHead',
        channels=256,
        num_classes=21,
        dropout_ratio=0.1,
        norm_cfg=dict(type='mnv2_backbone.SyncBN', momentum=0.003, eps=1e-5),
        # The mean over pixels that are not ignored, as in the original.
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
