"""The address that saved heads of before, and users who typed it, know: see `featcache.heads.one_vs_rest`."""

from featcache.heads.one_vs_rest import OneVsRestHead as OneVsRestHead
