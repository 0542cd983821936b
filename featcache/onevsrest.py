"""The former address of `featcache.heads.one_vs_rest.OneVsRestHead`, for older saved heads and for `--head`."""

from featcache.heads.one_vs_rest import OneVsRestHead as OneVsRestHead
