"""The checks of the doctor that depend on what the samples are: a module for each modality."""
