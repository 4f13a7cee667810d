"""How the weights of image models are read from files."""
