"""The address that saved heads of before, and users who typed it, know: see `featcache.heads.linear`."""

from featcache.heads.linear import LinearHead as LinearHead
