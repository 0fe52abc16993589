"""Blood cells of three kinds in a folder of images and XML files: an example of your own data.

mnv2 train ssdlite_mnv2_bccd.py --cfg-options data_root=BCCD/
"""

_base_ = './ssdlite_mnv2_finetune.py'

data_root = 'data/BCCD/'
data = dict(data_root=data_root, metainfo=dict(classes=('RBC', 'WBC', 'Platelets')))

# Cells are small in their images: a larger input, with anchors that keep their size in pixels.
input_size = (480, 480)
# What the first four layers learned from COCO fits any image, and to leave them as they are saves a quarter of the time.
model = dict(backbone=dict(frozen_stages=2), bbox_head=dict(num_classes=3, anchor_generator=dict(reference_size=300)))
train_pipeline = _base_.train_pipeline  # noqa: F821 - mmengine provides it
# Colours tell these cells apart: distorted ones lower the score, which they raise on photos.
train_pipeline[1] = dict(train_pipeline[1], scale=input_size, photometric=None)
train_pipeline.insert(
    2, dict(type='RandomFlip', prob=0.5, direction='vertical')
)  # under a microscope nothing is upright
test_pipeline = _base_.test_pipeline  # noqa: F821
test_pipeline[1] = dict(test_pipeline[1], scale=input_size)
train_dataloader = dict(dataset=dict(data, ann_file='ImageSets/Main/trainval.txt', pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data, ann_file='ImageSets/Main/test.txt', pipeline=test_pipeline))
test_dataloader = val_dataloader
