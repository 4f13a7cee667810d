"""This machine: device and precision, memory, compilation."""
