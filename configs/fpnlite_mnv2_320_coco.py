"""FPNLite-MobileNetV2 on COCO at 320x320, TensorFlow's ssd_mobilenet_v2_fpnlite_320x320_coco17_tpu-8.

    tools/dist_train.sh configs/fpnlite_mnv2_320_coco.py 8

Its 50000 steps are of 8 x 16 images. The settings are those of its pipeline.config, except the score threshold, 1e-8 there. This recipe has not been run to
its end; TensorFlow's model zoo reports AP 0.222.
"""

_base_ = [
    './_base_/models/fpnlite_mnv2.py',
    './_base_/datasets/coco_detection.py',
    './_base_/schedules/fpnlite_sgd.py',
    './_base_/default_runtime.py',
]

input_size = (320, 320)
train_pipeline = _base_.train_pipeline  # noqa: F821 - mmengine provides it
train_pipeline[1] = dict(
    type='mnv2_backbone.SSDAugment',
    scale=input_size,
    photometric=None,
    expand=None,
    crop=dict(min_ious=(0.0,), min_crop_size=0.87),  # at least 75 % of the image
    flip=0.5,
    half_pixel_centers=False,
    skip_corrupt=True,
)
test_pipeline = _base_.test_pipeline  # noqa: F821
test_pipeline[1] = dict(type='mnv2_backbone.TFResize', scale=input_size, keep_ratio=False)
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
# The schedule counts steps.
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5000))
log_processor = dict(by_epoch=False)
