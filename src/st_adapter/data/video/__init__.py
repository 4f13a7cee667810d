"""Frames of one video, by number."""
