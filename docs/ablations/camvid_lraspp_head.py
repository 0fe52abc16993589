"""Lite R-ASPP with five times the learning rate in the head."""

_base_ = './camvid_lraspp.py'
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(decode_head=dict(lr_mult=5.0))))
