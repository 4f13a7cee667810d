"""Labelling of many videos with one or more runs into one table, which can be interrupted."""
