"""Pascal VOC 2012 segmentation: trained on train, tested on val; VOCdevkit's layout below ``data_root``."""

_base_ = './seg_loading.py'
data_root = 'data/VOCdevkit/'

train_dataloader = dict(
    batch_size=16,
    dataset=dict(
        type='PascalVOCDataset',
        data_root=data_root,
        ann_file='VOC2012/ImageSets/Segmentation/train.txt',
        data_prefix=dict(img_path='VOC2012/JPEGImages', seg_map_path='VOC2012/SegmentationClass'),
        pipeline={{_base_.train_pipeline}},
    ),
)
val_dataloader = dict(
    batch_size=1,  # images of different sizes
    dataset=dict(
        type='PascalVOCDataset',
        data_root=data_root,
        ann_file='VOC2012/ImageSets/Segmentation/val.txt',
        data_prefix=dict(img_path='VOC2012/JPEGImages', seg_map_path='VOC2012/SegmentationClass'),
        indices=None,  # an integer N: only the first N images
        test_mode=True,
        pipeline={{_base_.test_pipeline}},
    ),
)
test_dataloader = val_dataloader
