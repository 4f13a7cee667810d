"""Read the weights of image models from files."""
