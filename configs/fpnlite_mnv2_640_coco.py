"""FPNLite-MobileNetV2 on COCO at 640x640, TensorFlow's ssd_mobilenet_v2_fpnlite_640x640_coco17_tpu-8.

    tools/dist_train.sh configs/fpnlite_mnv2_640_coco.py 8

As fpnlite_mnv2_320_coco.py; TensorFlow's model zoo reports AP 0.282.
"""

_base_ = './fpnlite_mnv2_320_coco.py'

input_size = (640, 640)
train_pipeline = _base_.train_pipeline  # noqa: F821 - mmengine provides it
train_pipeline[1] = dict(train_pipeline[1], scale=input_size)
test_pipeline = _base_.test_pipeline  # noqa: F821
test_pipeline[1] = dict(test_pipeline[1], scale=input_size)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
