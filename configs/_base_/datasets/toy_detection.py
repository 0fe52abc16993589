"""The embedded data set; ``python tools/make_toy_dataset.py data/toy`` writes it."""

_base_ = './coco_detection.py'
data_root = 'data/toy/'
# The classes of mnv2_backbone.toydata, in its order.
classes = ('ellipse', 'ring', 'rectangle', 'triangle', 'star', 'cross', 'crescent', 'arrow')
palette = [
    (230, 57, 70),
    (255, 159, 28),
    (255, 221, 0),
    (82, 183, 60),
    (0, 187, 190),
    (52, 120, 246),
    (155, 81, 224),
    (240, 98, 190),
]
metainfo = dict(classes=classes, palette=palette)

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
