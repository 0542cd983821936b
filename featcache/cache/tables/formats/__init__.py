"""The formats of tables of features, a module each."""
