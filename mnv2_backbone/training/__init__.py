"""What stands behind mnv2 train and mnv2 test: command line, options, checks, reproducible resume, saving.

Imports everything else in the package; nothing imports it but the tools.
"""
