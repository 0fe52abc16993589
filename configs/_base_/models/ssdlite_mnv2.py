"""SSDLite on MobileNetV2, as the paper and TensorFlow's Object Detection API build it."""

norm_cfg = dict(type='mnv2_backbone.SyncBN', momentum=0.03, eps=0.001)

model = dict(
    type='mnv2_backbone.SSDLite',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True),
    backbone=dict(
        type='mnv2_backbone.MobileNetV2',
        out_indices=('layer_15/expansion_output', 'layer_19'),
        norm_cfg=norm_cfg,
        init_cfg=dict(type='Pretrained', checkpoint='mnv2://imagenet-1.0'),
    ),
    neck=dict(type='mnv2_backbone.SSDLiteNeck', extra_channels=(512, 256, 256, 128), norm_cfg=norm_cfg),
    bbox_head=dict(
        type='mnv2_backbone.SSDLiteHead',
        num_classes=80,
        score_converter='softmax',
        anchor_generator=dict(type='mnv2_backbone.TFAnchorGenerator', num_levels=6),
        norm_cfg=norm_cfg,
    ),
    train_cfg=dict(
        # Every object gets its best anchor, however small the overlap (TensorFlow's force_match).
        assigner=dict(
            type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.0, gt_max_assign_all=False
        ),
        neg_pos_ratio=3,
        min_negatives=3,
        smoothl1_beta=1.0,
    ),
    test_cfg=dict(score_thr=0.01, nms_pre=1000, nms=dict(type='nms', iou_threshold=0.55), max_per_img=200),
)
