"""The embedded data set of drawn shapes."""
