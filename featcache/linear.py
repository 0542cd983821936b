"""The former address of `featcache.heads.linear.LinearHead`, for older saved heads and for `--head`."""

from featcache.heads.linear import LinearHead as LinearHead
