"""What a model costs before it is run: parameters, operations, recipes, backbones."""
