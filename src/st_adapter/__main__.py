"""Run the command line as `python -m st_adapter`."""

from st_adapter.cli.main import entry

if __name__ == "__main__":  # the worker processes of `compare` import this file
    entry()
