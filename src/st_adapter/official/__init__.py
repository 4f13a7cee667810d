"""Conversion of checkpoints from and to the authors' code, github.com/linziyi96/st-adapter."""
