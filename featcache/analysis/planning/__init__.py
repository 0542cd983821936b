"""Time and cost of a large extraction, from rates measured on this machine."""
