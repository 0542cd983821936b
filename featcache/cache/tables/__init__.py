"""Features as tables that other programs read: a row for each sample, with its vector in one column."""
