"""Cameras and network streams: what they are, and how their newest frames are read."""
