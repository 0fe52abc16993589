"""VOC's 20 classes from Google's COCO detector: all of them keep its weights, by their names.

mnv2 train ssdlite_mnv2_voc_finetune.py
"""

_base_ = './ssdlite_mnv2_finetune.py'

max_epochs = 3
data_root = 'data/VOCdevkit/'
voc12 = dict(data_root=data_root, data_prefix=dict(sub_data_root='VOC2012/'))
voc07 = dict(data_root=data_root, data_prefix=dict(sub_data_root='VOC2007/'))

# No class is new: the sigmoid scores that the detector was trained with, and small steps, keep what it knows.
model = dict(bbox_head=dict(num_classes=20, score_converter='sigmoid'))
optim_wrapper = dict(optimizer=dict(lr=2e-4))
train_dataloader = dict(dataset=dict(voc12, ann_file='VOC2012/ImageSets/Main/train.txt'))
val_dataloader = dict(dataset=dict(voc12, ann_file='VOC2012/ImageSets/Main/val.txt'))
test_dataloader = dict(dataset=dict(voc07, ann_file='VOC2007/ImageSets/Main/test.txt'))
test_evaluator = dict(eval_mode='11points')
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = _base_.param_scheduler  # noqa: F821 - mmengine provides it
param_scheduler[1] = dict(param_scheduler[1], T_max=max_epochs, end=max_epochs)
