"""The former address of `featcache.heads.binary_relevance.BinaryRelevance`, for heads saved under it."""

from featcache.heads.binary_relevance import BinaryRelevance

EachLabel = BinaryRelevance
