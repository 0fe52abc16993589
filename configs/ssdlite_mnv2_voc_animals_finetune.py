"""SSDLite-MobileNetV2 on the animals and people of VOC 2012, from Google's COCO detector, which knows all six classes.

    cp docs/subsets/voc2012_animals.txt data/VOCdevkit/VOC2012/ImageSets/Main/
    mnv2 train ssdlite_mnv2_voc_animals_finetune.py

The data is that of ssdlite_mnv2_voc_animals.py.
"""

_base_ = ['./ssdlite_mnv2_voc_finetune.py', './_base_/datasets/voc_animals.py']

max_epochs = 2
input_size = (320, 320)
train_pipeline = _base_.train_pipeline  # noqa: F821 - mmengine provides it
train_pipeline[1] = dict(train_pipeline[1], scale=input_size)
test_pipeline = _base_.test_pipeline  # noqa: F821
test_pipeline[1] = dict(test_pipeline[1], scale=input_size)
animals = dict(_base_.animals, pipeline=test_pipeline)  # noqa: F821

model = dict(bbox_head=dict(num_classes=6))
train_dataloader = dict(batch_size=16, dataset=dict(_base_.animals_train, pipeline=train_pipeline))  # noqa: F821
val_dataloader = dict(dataset=animals)
test_dataloader = dict(dataset=animals)
val_evaluator = dict(eval_mode='11points')
auto_scale_lr = dict(base_batch_size=16)
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = _base_.param_scheduler  # noqa: F821
param_scheduler[1].update(T_max=max_epochs, end=max_epochs)
