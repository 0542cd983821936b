"""Export of a saved model as a file that does not need featcache."""
