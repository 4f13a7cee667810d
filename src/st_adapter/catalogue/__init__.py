"""The cost of models without running them, and the list of backbones that adapters fit."""
