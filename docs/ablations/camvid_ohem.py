"""The loss of the hard pixels alone: those of a probability below 0.7, and at least 50,000 of each image."""

_base_ = '../../configs/deeplabv3plus_mnv2_camvid_val.py'
model = dict(decode_head=dict(sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=50000)))
