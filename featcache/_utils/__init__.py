"""What any program could use: files, locks, text, progress. It knows no word of featcache."""
