"""Classifiers behind HTTP: a REST interface and a web page."""
