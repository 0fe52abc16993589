"""The loss weighted by class: the square root of the median share of pixels over the share of the class, in train."""

_base_ = '../../configs/deeplabv3plus_mnv2_camvid_val.py'
model = dict(
    decode_head=dict(
        loss_decode=dict(
            class_weight=[0.52, 0.44, 2.14, 0.38, 1.0, 0.68, 1.96, 2.0, 0.87, 2.65, 3.92],
            reduction='none',  # with a mean MMSegmentation 1.2 fails where pixels are ignored
        )
    )
)
