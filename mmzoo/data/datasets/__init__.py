"""The data sets of the literature, one file each, and the bundled mfeat."""
