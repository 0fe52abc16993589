"""With the atrous branches of DeepLabv3, regular convolutions: the paper's row of 4.52 M parameters (75.70 mIoU).

    mnv2 train deeplabv3_mnv2_aspp_voc.py

The rates are for output stride 16 and are rescaled for others. This recipe has not been run.
"""

_base_ = './deeplabv3lite_mnv2_voc.py'
model = dict(decode_head=dict(atrous_rates=(6, 12, 18)))
