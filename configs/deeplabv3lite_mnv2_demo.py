"""The segmentation demo: DeepLabv3-lite on the embedded data set, in a few minutes on two CPU cores.

    make demo-segment
"""

_base_ = [
    './_base_/models/deeplabv3lite_mnv2.py',
    './_base_/datasets/toy_segmentation.py',
    './_base_/schedules/deeplab_poly.py',
    './_base_/seg_runtime.py',
]
max_epochs = 6
model = dict(
    data_preprocessor=dict(size=(193, 193), test_cfg=dict(size=(257, 257))),
    # Few steps: norms that settle fast.
    backbone=dict(norm_cfg=dict(momentum=0.03)),
    decode_head=dict(num_classes=9, norm_cfg=dict(momentum=0.03)),
)
optim_wrapper = dict(type='mnv2_backbone.BFloat16OptimWrapper', optimizer=dict(lr=0.03))
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
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
