"""SSDLite-MobileNetV2 on COCO at 320x320, the paper's detector: 4.34 M parameters, 0.79 G multiply-adds.

    mnv2 train ssdlite_mnv2_coco.py --auto-scale-lr
    tools/dist_train.sh configs/ssdlite_mnv2_coco.py 8

The schedule is MMDetection's for its own SSDLite: 8 x 24 images, 600 epochs, cosine. This recipe has not been
run to its end; the paper reports 22.1 AP on test-dev for this network.
"""

_base_ = [
    './_base_/models/ssdlite_mnv2.py',
    './_base_/datasets/coco_detection.py',
    './_base_/schedules/ssdlite_sgd.py',
    './_base_/default_runtime.py',
]
