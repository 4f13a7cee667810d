"""How to use this machine: device, precision, memory, compilation and attention."""
