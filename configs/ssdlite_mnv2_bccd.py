"""Blood cells of three kinds in a folder of images and XML files: an example of your own data.

mnv2 train ssdlite_mnv2_bccd.py --cfg-options data_root=BCCD/
"""

_base_ = './ssdlite_mnv2_finetune.py'

data_root = 'data/BCCD/'
data = dict(data_root=data_root, metainfo=dict(classes=('RBC', 'WBC', 'Platelets')))

model = dict(bbox_head=dict(num_classes=3))
train_pipeline = _base_.train_pipeline  # noqa: F821 - mmengine provides it
train_pipeline.insert(
    2, dict(type='RandomFlip', prob=0.5, direction='vertical')
)  # under a microscope nothing is upright
train_dataloader = dict(dataset=dict(data, ann_file='ImageSets/Main/trainval.txt', pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data, ann_file='ImageSets/Main/test.txt'))
test_dataloader = val_dataloader
