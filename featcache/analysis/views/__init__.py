"""Choice of augmented views by a trial."""
