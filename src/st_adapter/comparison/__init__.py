"""Several transfer methods on the same data: a plan, cells that train, a table."""
