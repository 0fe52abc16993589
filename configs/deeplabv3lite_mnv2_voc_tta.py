"""Output stride 8, six scales and their mirror images, as the paper's best row (77.33 mIoU, 152.6 G).

mnv2 test deeplabv3lite_mnv2_voc_tta.py CHECKPOINT --tta
"""

_base_ = './deeplabv3lite_mnv2_voc_os8.py'
