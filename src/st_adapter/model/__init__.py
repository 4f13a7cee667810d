"""The video classifier: how it is built, what each method trains in it, and how it is saved."""
