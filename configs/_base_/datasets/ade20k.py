"""ADE20K, 150 classes: images/ and annotations/ of ADEChallengeData2016 below ``data_root``.

Label 0 (no class) is ignored. The shorter side is resized to 513.
"""

_base_ = './seg_loading.py'
data_root = 'data/ade/ADEChallengeData2016/'
size = (2052, 513)  # longer side at most, shorter side
load_labels = dict(type='LoadAnnotations', reduce_zero_label=True)

train_dataloader = dict(
    batch_size=16,
    dataset=dict(
        type='ADE20KDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=[
            dict(type='mnv2_backbone.LoadImage', skip_corrupt=True),
            load_labels,
            dict(type='RandomResize', scale=size, ratio_range=(0.5, 2.0), keep_ratio=True),
            dict(type='RandomCrop', crop_size=(513, 513)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    ),
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=size, keep_ratio=True),
    load_labels,  # at the image's own size
    dict(type='PackSegInputs'),
]
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        type='ADE20KDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        indices=None,  # an integer N: only the first N images
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=tuple(int(x * scale) for x in size), keep_ratio=True)
                for scale in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
            [load_labels],
            [dict(type='PackSegInputs')],
        ],
    ),
]
