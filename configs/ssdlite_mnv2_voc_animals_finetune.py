"""The animals and people of VOC 2012 from Google's COCO detector, which keeps what it knows of them.

    cp docs/subsets/voc2012_animals.txt data/VOCdevkit/VOC2012/ImageSets/Main/
    mnv2 train ssdlite_mnv2_voc_animals_finetune.py

The data is that of ssdlite_mnv2_voc_animals.py.
"""

_base_ = ['./ssdlite_mnv2_voc_finetune.py', './_base_/datasets/voc_animals.py']

max_epochs = 6
animals = _base_.animals  # noqa: F821 - mmengine provides it

model = dict(bbox_head=dict(num_classes=6))
train_dataloader = dict(batch_size=16, dataset=_base_.animals_train)  # noqa: F821
val_dataloader = dict(dataset=animals)
test_dataloader = dict(dataset=animals)
val_evaluator = dict(eval_mode='11points')
auto_scale_lr = dict(base_batch_size=16)
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = _base_.param_scheduler  # noqa: F821
param_scheduler[1].update(T_max=max_epochs, end=max_epochs)
