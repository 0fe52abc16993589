"""SSD's augmentation: photometric distortion, zooming out, cropping by overlap, flip."""

_base_ = './loaders.py'

input_size = (320, 320)  # width, height
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')

# The distribution of MMDetection's chain PhotoMetricDistortion, Expand, MinIoURandomCrop, Resize, RandomFlip.
train_pipeline = [
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='mnv2_backbone.SSDAugment',
        scale=input_size,
        expand=dict(mean=[127.5] * 3, ratio_range=(1, 4), prob=0.5),
        crop=dict(min_ious=(0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size=0.3),
        flip=0.5,
        skip_corrupt=True,
    ),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=input_size, keep_ratio=False),
    # Loaded after Resize: evaluated at the original size.
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=meta_keys),
]
