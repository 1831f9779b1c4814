"""Search: from the two tables to the best networks within limits, exactly. Numpy alone."""
