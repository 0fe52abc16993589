"""The toy data set's boxes; ``mnv2 toy data/toy`` writes it."""

_base_ = ['./coco_detection.py', './toy_classes.py']
data_root = 'data/toy/'
metainfo = dict(classes={{_base_.classes}}, palette={{_base_.palette}})

train_dataloader = dict(
    num_workers=2,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=1),
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root, metainfo=metainfo, ann_file='annotations/instances_val.json', data_prefix=dict(img='val/')
    )
)
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator
