"""Detectors, segmentors and classifiers as graphs, against the libraries that they come from."""
