"""The state behind the page on which a person labels samples."""
