"""Values and conventions that every room speaks: samples, specs, layers' names, splits, model folders, machines."""
