"""What stands behind tools/train.py and tools/test.py: command line, options, checks, reproducible resume, saving.

Imports everything else in the package; nothing imports it but the tools.
"""
