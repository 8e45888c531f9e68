"""Past one machine: the same answers from many processes, by Ray Data."""
