"""Google's DeepLabv3-MobileNetV2 of width 0.5 for phones: images resized to 257x257, output stride 8.

    mnv2 convert deeplabv3_257_mv_gpu.tflite half.pth
    mnv2 test deeplabv3lite_mnv2_050_voc_tf.py half.pth

On the first 80 images of VOC 2012 val, which it may have been trained on: 68.95 mIoU.
"""

_base_ = './deeplabv3lite_mnv2_voc_tf.py'
model = dict(
    data_preprocessor=dict(size=(257, 257), test_cfg=dict(size=(257, 257))),
    # Its channels are multiples of 4.
    backbone=dict(widen_factor=0.5, divisible_by=4),
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(257, 257), keep_ratio=False),
    dict(type='LoadAnnotations'),  # at the image's own size
    dict(type='PackSegInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
tta_pipeline = None  # --tta: as it is tested, and mirrored
