"""DeepLabv3-lite-MobileNetV2 on Cityscapes: the MobileNetV3 paper's "V2 R-ASPP F256", 2.11 M, 21.2 G multiply-adds.

    tools/dist_train.sh configs/deeplabv3lite_mnv2_cityscapes.py 4 --cfg-options train_dataloader.batch_size=2

242 epochs are 90000 iterations of 8 images. This recipe has not been run; the paper reports 72.84 mIoU.
"""

_base_ = [
    './_base_/models/deeplabv3lite_mnv2.py',
    './_base_/datasets/cityscapes.py',
    './_base_/schedules/deeplab_poly.py',
    './_base_/seg_runtime.py',
]
max_epochs = 242
model = dict(
    # Evaluated on whole images of 1024x2048, padded by one pixel in each dimension as in the original.
    data_preprocessor=dict(size=(769, 769), test_cfg=dict(size=(1025, 2049))),
    decode_head=dict(num_classes=19),
)
train_cfg = dict(max_epochs=max_epochs, val_interval=11)
param_scheduler = _base_.param_scheduler  # noqa: F821 - mmengine provides it
param_scheduler[0]['end'] = max_epochs
auto_scale_lr = dict(base_batch_size=8)
