"""Lite R-ASPP, trained and validated as the other heads."""

_base_ = '../../configs/lraspp_mnv2_camvid.py'
val = dict(_base_.val, test_mode=True, pipeline=_base_.test_pipeline)  # noqa: F821 - mmengine provides it
train_dataloader = dict(dataset=dict(_delete_=True, **_base_.train))  # noqa: F821
val_dataloader = dict(dataset=dict(_delete_=True, **val))
test_dataloader = val_dataloader
