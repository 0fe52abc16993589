"""The toy data set's masks; ``mnv2 toy data/toy`` writes it."""

_base_ = ['./seg_loading.py', './toy_classes.py']
data_root = 'data/toy/'
# Label 0 is the ground.
metainfo = dict(classes=('ground', *_base_.classes), palette=[(0, 0, 0), *_base_.palette])  # noqa: F821

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path='train', seg_map_path='train_labels'),
        pipeline=[
            dict(type='mnv2_backbone.LoadImage', skip_corrupt=True),
            dict(type='LoadAnnotations'),
            {{_base_.scales}},
            dict(type='RandomCrop', crop_size=(193, 193)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path='val', seg_map_path='val_labels'),
        indices=None,  # an integer N: only the first N images
        test_mode=True,
        pipeline={{_base_.test_pipeline}},
    ),
)
test_dataloader = val_dataloader
