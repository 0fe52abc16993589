"""Cityscapes, 19 classes: leftImg8bit/ and gtFine/ (with labelTrainIds) below ``data_root``; crops of 769."""

_base_ = './seg_loading.py'
data_root = 'data/cityscapes/'

train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        type='CityscapesDataset',
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=[
            dict(type='mnv2_backbone.LoadImage', skip_corrupt=True),
            dict(type='LoadAnnotations'),
            {{_base_.scales}},
            dict(type='RandomCrop', crop_size=(769, 769)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        type='CityscapesDataset',
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        indices=None,  # an integer N: only the first N images
        test_mode=True,
        pipeline={{_base_.test_pipeline}},
    ),
)
test_dataloader = val_dataloader
