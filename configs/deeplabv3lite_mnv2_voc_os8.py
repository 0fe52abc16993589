"""The same network at output stride 8: 8.83 G multiply-adds. Weights are interchangeable between strides.

mnv2 test deeplabv3lite_mnv2_voc_os8.py CHECKPOINT
"""

_base_ = './deeplabv3lite_mnv2_voc.py'
model = dict(backbone=dict(output_stride=8))
