"""Google's ssdlite_mobilenet_v2_coco (2018_05_09) as it was trained: 300x300, SAME padding, sigmoid scores.

    mnv2 test ssdlite_mnv2_coco_tf.py mnv2://ssdlite-coco

AP 0.296, AP50 0.471 on 103 images of COCO val2017; TensorFlow's own graph has 0.2962 and 0.4707 there.
The settings are those of its ssdlite_mobilenet_v2_coco.config, except the score threshold, 1e-8 there.
"""

_base_ = './ssdlite_mnv2_coco.py'

input_size = (300, 300)
resize = dict(type='mnv2_backbone.TFResize', scale=input_size, keep_ratio=False)
norm_cfg = dict(momentum=0.0003)  # decay 0.9997

model = dict(
    # The published backbone has its norms folded: their statistics stay as they are in training too.
    backbone=dict(norm_cfg=norm_cfg, norm_eval=True, init_cfg=None),
    neck=dict(norm_cfg=norm_cfg),
    bbox_head=dict(norm_cfg=norm_cfg, score_converter='sigmoid'),
    test_cfg=dict(score_thr=1e-3, nms_pre=-1, nms=dict(type='nms', iou_threshold=0.6), max_per_img=100),
)
train_pipeline = _base_.train_pipeline  # noqa: F821 - mmengine provides it
train_pipeline[1] = dict(train_pipeline[1], scale=input_size, half_pixel_centers=False)
test_pipeline = _base_.test_pipeline  # noqa: F821
test_pipeline[1] = resize
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
