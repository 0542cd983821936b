"""The address that saved heads of before, and users who typed it, know: see `featcache.heads.onevsrest`."""

from featcache.heads.onevsrest import OneVsRestHead as OneVsRestHead
