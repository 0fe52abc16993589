"""SSDLite-MobileNetV2 on the animals and people of VOC 2012, from ImageNet weights.

    cp docs/subsets/voc2012_animals.txt data/VOCdevkit/VOC2012/ImageSets/Main/
    mnv2 train ssdlite_mnv2_voc_animals.py

The list has 3,643 images of VOC 2012 trainval. Validated on its val part without those, tested on VOC 2007 test.
"""

_base_ = './ssdlite_mnv2_voc_short.py'

max_epochs = 12
# XMLDataset: with VOCDataset the table of scores names its rows after the first of all 20 classes.
animals = dict(type='XMLDataset', metainfo=dict(classes=('cat', 'cow', 'dog', 'horse', 'person', 'sheep')))

model = dict(bbox_head=dict(num_classes=6))
train_dataloader = dict(batch_size=16, dataset=dict(animals, ann_file='VOC2012/ImageSets/Main/voc2012_animals.txt'))
val_dataloader = dict(dataset=animals)
test_dataloader = dict(dataset=animals)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
auto_scale_lr = dict(base_batch_size=16)
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = _base_.param_scheduler  # noqa: F821 - mmengine provides it
param_scheduler[0]['end'] = 200
param_scheduler[1].update(T_max=max_epochs, end=max_epochs)
