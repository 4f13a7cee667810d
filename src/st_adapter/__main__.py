"""`python -m st_adapter`."""

from st_adapter.cli.main import entry

if __name__ == "__main__":  # a comparison's processes import this file, too
    entry()
