"""A module for each kind of head, which it registers in `heads.registry.HEADS`. Functions import what is heavy."""
