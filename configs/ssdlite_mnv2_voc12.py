"""SSDLite-MobileNetV2 for those who have VOC 2012 alone: trained on its train part, tested on its val part.

python tools/train.py configs/ssdlite_mnv2_voc12.py
"""

_base_ = './ssdlite_mnv2_voc.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='VOCDataset',
        data_root={{_base_.data_root}},
        ann_file='VOC2012/ImageSets/Main/train.txt',
        data_prefix=dict(sub_data_root='VOC2012/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline={{_base_.train_pipeline}},
    )
)
val_dataloader = dict(
    dataset=dict(ann_file='VOC2012/ImageSets/Main/val.txt', data_prefix=dict(sub_data_root='VOC2012/'))
)
test_dataloader = val_dataloader
