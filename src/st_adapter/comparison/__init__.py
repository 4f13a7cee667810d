"""Compare transfer methods on the same data: plan the training runs, run them, tabulate."""
