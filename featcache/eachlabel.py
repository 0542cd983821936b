"""The address that saved heads of before, and users who typed it, know: see `featcache.heads.eachlabel`."""

from featcache.heads.eachlabel import EachLabel as EachLabel
