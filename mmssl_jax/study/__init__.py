"""Studies: the same method with one thing changed at a time, over seeds, as a table."""
