"""The checker that tests put behind every shape in a signature."""

from beartype import BeartypeConf, beartype

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do for a float
