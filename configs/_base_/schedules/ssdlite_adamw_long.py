"""AdamW for 240 epochs, with a longer warm-up."""

_base_ = './ssdlite_adamw.py'

max_epochs = 240
train_cfg = dict(max_epochs=max_epochs, val_interval=10)
param_scheduler = _base_.param_scheduler  # noqa: F821 - mmengine provides it
param_scheduler[0]['end'] = 500
param_scheduler[1].update(T_max=max_epochs, end=max_epochs)
