"""Google's DeepLabv3-MobileNetV2 as it was trained: output stride 8, SAME padding, images padded to 513x513.

    mnv2 test deeplabv3lite_mnv2_voc_tf.py mnv2://deeplabv3-voc

On the first 80 images of VOC 2012 val (test_dataloader.dataset.indices=80), which it was trained on: 87.30 mIoU; with
model.backbone.output_stride=16 84.35.
"""

_base_ = './deeplabv3lite_mnv2_voc12.py'
model = dict(
    # The checkpoint holds the whole network.
    backbone=dict(output_stride=8, padding='same', init_cfg=None),
    # The original's momentum in fine-tuning.
    decode_head=dict(norm_cfg=dict(momentum=0.0003)),
)
