"""What a large extraction will cost, from rates measured on this machine."""
