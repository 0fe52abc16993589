"""Segmentation of the embedded data set from scratch: width 0.5, crops of 193.

    python tools/make_toy_dataset.py data/toy
    python tools/train.py configs/deeplabv3lite_mnv2_demo.py
"""

_base_ = [
    './_base_/models/deeplabv3lite_mnv2.py',
    './_base_/datasets/toy_segmentation.py',
    './_base_/schedules/deeplab_poly.py',
    './_base_/seg_runtime.py',
]
max_epochs = 12
model = dict(
    data_preprocessor=dict(size=(193, 193), test_cfg=dict(size=(257, 257))),
    # From scratch and in few steps: small, and with norms that settle fast.
    backbone=dict(widen_factor=0.5, norm_cfg=dict(momentum=0.03), init_cfg=None),
    decode_head=dict(channels=128, num_classes=9, norm_cfg=dict(momentum=0.03)),
)
optim_wrapper = dict(optimizer=dict(lr=0.05))
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(
        type='PolyLR',
        power=0.9,
        eta_min=0.0,
        begin=0,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    )
]
