"""DeepLabv3-lite-MobileNetV2 on ADE20K, 150 classes.

    tools/dist_train.sh configs/deeplabv3lite_mnv2_ade20k.py 4 --cfg-options train_dataloader.batch_size=4

119 epochs are 150000 iterations of 16 images. This recipe has not been run.
"""

_base_ = [
    './_base_/models/deeplabv3lite_mnv2.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/deeplab_poly.py',
    './_base_/seg_runtime.py',
]
max_epochs = 119
model = dict(decode_head=dict(num_classes=150))
train_cfg = dict(max_epochs=max_epochs, val_interval=7)
param_scheduler = _base_.param_scheduler  # noqa: F821 - mmengine provides it
param_scheduler[0]['end'] = max_epochs
