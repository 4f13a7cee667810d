"""Augmentation of training clips, and the crops of test views."""
