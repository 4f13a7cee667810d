"""Decoding of single videos: frames by their number."""
