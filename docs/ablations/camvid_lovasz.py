"""The Lovasz loss, which follows IoU, beside the cross entropy."""

_base_ = '../../configs/deeplabv3plus_mnv2_camvid_val.py'
model = dict(
    decode_head=dict(
        loss_decode=[
            dict(type='CrossEntropyLoss', avg_non_ignore=True),
            dict(type='LovaszLoss', per_image=False, reduction='none'),
        ]
    )
)
