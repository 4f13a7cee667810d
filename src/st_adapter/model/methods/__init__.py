"""The modules and parameters that each method trains besides the head."""
