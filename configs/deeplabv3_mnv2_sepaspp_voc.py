"""With atrous branches of depthwise separable convolutions: 2.57 M parameters, 3.23 G multiply-adds.

    mnv2 train deeplabv3_mnv2_sepaspp_voc.py

This recipe has not been run.
"""

_base_ = './deeplabv3_mnv2_aspp_voc.py'
model = dict(decode_head=dict(separable=True))
