"""Images and masks: found, loaded, augmented, resized, checked and written.

Imports ``network`` and below.
"""
