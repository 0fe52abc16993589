"""The parts of ``mnv2 finetune``: choices, the config that is written, progress, and the report at the end."""
