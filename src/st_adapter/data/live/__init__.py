"""Cameras and network streams: their kinds, and how their newest frames are read."""
