"""The demo: SSDLite-MobileNetV2 on the embedded data set, in a few minutes on two CPU cores.

    make demo
"""

_base_ = [
    './_base_/models/ssdlite_mnv2.py',
    './_base_/datasets/toy_detection.py',
    './_base_/schedules/ssdlite_sgd.py',
    './_base_/default_runtime.py',
]
model = dict(bbox_head=dict(num_classes=8))
