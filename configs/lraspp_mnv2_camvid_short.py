"""Lite R-ASPP on CamVid in little more than an hour on one core of a CPU, from ImageNet weights.

    mnv2 train lraspp_mnv2_camvid_short.py

Trained on crops of 320x240, with the first two stages of the backbone frozen: an epoch takes about 35 % of the time of
whole images and nothing frozen. Tested on whole images.
"""

_base_ = './lraspp_mnv2_camvid.py'
max_epochs = 45
crop_size = (240, 320)  # height, width
model = dict(data_preprocessor=dict(size=crop_size), backbone=dict(frozen_stages=2))
train, val = _base_.train, _base_.val  # noqa: F821 - mmengine provides it
train['pipeline'] = [
    dict(step, crop_size=crop_size) if step['type'] == 'RandomCrop' else step for step in train['pipeline']
]
val['pipeline'] = train['pipeline']
train_dataloader = dict(batch_size=8, dataset=dict(datasets=[train, val]))
optim_wrapper = dict(optimizer=dict(lr=1.4e-3))
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = _base_.param_scheduler  # noqa: F821
param_scheduler[0]['end'] = max_epochs
