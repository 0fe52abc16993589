"""The CamVid config with which options are chosen: trained on train alone (367 images), validated on val (101).

mnv2 train deeplabv3plus_mnv2_camvid_val.py
"""

_base_ = './deeplabv3plus_mnv2_camvid.py'
val = dict(_base_.val, test_mode=True, pipeline=_base_.test_pipeline)  # noqa: F821 - mmengine provides it
train_dataloader = dict(dataset=dict(_delete_=True, **_base_.train))  # noqa: F821
val_dataloader = dict(dataset=dict(_delete_=True, **val))
test_dataloader = val_dataloader
