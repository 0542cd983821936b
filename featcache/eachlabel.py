"""The address that saved heads of before, and users who typed it, know: see `featcache.heads.binary_relevance`."""

from featcache.heads.binary_relevance import EachLabel as EachLabel
