"""ssdlite_mnv2_voc_short.py, evaluated and saved with a moving average of its weights.

mnv2 train ssdlite_mnv2_voc_ema.py
"""

_base_ = './ssdlite_mnv2_voc_short.py'

# Over the last 50 iterations or so; long schedules take 0.0002.
default_hooks = dict(ema=dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.02, gamma=20))
