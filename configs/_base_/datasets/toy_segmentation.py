"""The embedded data set's masks; ``python tools/make_toy_dataset.py data/toy`` writes it."""

_base_ = './seg_loading.py'
data_root = 'data/toy/'
# Label 0 is the ground; the classes of mnv2_backbone.toydata follow in its order.
metainfo = dict(
    classes=(
        'ground', 'ellipse', 'ring', 'rectangle', 'triangle', 'star', 'cross', 'crescent', 'arrow',
    ),
    palette=[
        (0, 0, 0), (230, 57, 70), (255, 159, 28), (255, 221, 0), (82, 183, 60), (0, 187, 190),
        (52, 120, 246), (155, 81, 224), (240, 98, 190),
    ],
)  # fmt: skip

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
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
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path='val', seg_map_path='val_labels'),
        indices=None,  # a number: only the first so many pictures
        test_mode=True,
        pipeline={{_base_.test_pipeline}},
    ),
)
test_dataloader = val_dataloader
