"""DeepLabv3-lite-MobileNetV2 on ADE20K, 150 classes.

    tools/dist_train.sh configs/deeplabv3lite_mnv2_ade20k.py 4

119 epochs are 150000 iterations of 16 pictures. This recipe has not been run.
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
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0.0, begin=0, end=max_epochs, by_epoch=True, convert_to_iter_based=True)
]
