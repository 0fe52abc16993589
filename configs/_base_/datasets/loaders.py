"""How every data set is loaded; what is loaded is added by the files that inherit from this one."""

train_dataloader = dict(
    num_workers=4, persistent_workers=True, drop_last=True, sampler=dict(type='DefaultSampler', shuffle=True)
)
val_dataloader = dict(
    num_workers=2, persistent_workers=True, drop_last=False, sampler=dict(type='DefaultSampler', shuffle=False)
)
test_dataloader = val_dataloader
