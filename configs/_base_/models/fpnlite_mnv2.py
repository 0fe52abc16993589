"""FPNLite on MobileNetV2, as TensorFlow's Object Detection API builds it (ssd_mobilenet_v2_fpnlite)."""

norm_cfg = dict(type='mnv2_backbone.SyncBN', momentum=0.003, eps=0.001)

model = dict(
    type='mnv2_backbone.SSDLite',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True),
    backbone=dict(
        type='mnv2_backbone.MobileNetV2',
        out_indices=('layer_7', 'layer_14', 'layer_19'),
        norm_cfg=norm_cfg,
        init_cfg=dict(type='Pretrained', checkpoint='mnv2://imagenet-1.0'),
    ),
    neck=dict(type='mnv2_backbone.FPNLiteNeck', depth=128, norm_cfg=norm_cfg),
    bbox_head=dict(
        type='mnv2_backbone.FPNLiteHead',
        num_classes=80,
        anchor_generator=dict(type='mnv2_backbone.FPNLiteAnchorGenerator'),
        norm_cfg=norm_cfg,
    ),
    train_cfg=dict(
        # Every object gets its best anchor, however small the overlap (TensorFlow's force_match).
        assigner=dict(
            type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.0, gt_max_assign_all=False
        ),
        focal_alpha=0.25,
        focal_gamma=2.0,
        smoothl1_beta=1.0,
    ),
    test_cfg=dict(score_thr=1e-3, nms_pre=-1, nms=dict(type='nms', iou_threshold=0.6), max_per_img=100),
)
