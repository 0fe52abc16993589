"""VOC 2012: trained on its train part, validated on its val part; the test part stays VOC 2007 test."""

_base_ = './voc_detection.py'
voc12 = dict(data_prefix=dict(sub_data_root='VOC2012/'))

train_dataloader = dict(
    dataset=dict(
        voc12,
        _delete_=True,
        type='VOCDataset',
        data_root={{_base_.data_root}},
        ann_file='VOC2012/ImageSets/Main/train.txt',
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline={{_base_.train_pipeline}},
    )
)
val_dataloader = dict(dataset=dict(voc12, ann_file='VOC2012/ImageSets/Main/val.txt'))
