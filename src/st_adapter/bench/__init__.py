"""How fast a configuration runs on this machine, beside what the machine can do."""
