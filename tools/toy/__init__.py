"""The toy data set of drawn shapes."""
