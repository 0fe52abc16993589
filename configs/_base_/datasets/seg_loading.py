"""What the segmentation data sets have in common: loading, DeepLab's scales and flips, evaluation, TTA."""

_base_ = './loaders.py'

scales = dict(
    type='RandomChoice',
    transforms=[
        [dict(type='Resize', scale_factor=scale, keep_ratio=True)] for scale in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    ],
)
train_pipeline = [
    dict(type='mnv2_backbone.LoadImage', skip_corrupt=True),
    dict(type='LoadAnnotations'),
    scales,
    dict(type='RandomCrop', crop_size=(513, 513)),  # the model pads what is smaller
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
# Images keep their size.
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
# The paper's multi-scale inputs, each also mirrored.
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale_factor=scale, keep_ratio=True) for scale in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)],
            [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
val_evaluator = dict(type='mnv2_backbone.IndexedIoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
