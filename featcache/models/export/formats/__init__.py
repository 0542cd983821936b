"""One file for each export format. Each registers itself with `featcache.models.export.registry.EXPORT_FORMATS`."""
