"""Searches: studies whose trials Optuna suggests, one after the other, from what the earlier ones reached."""

from cass_tune.search.page import Search
from cass_tune.search.settings import SearchSettings

__all__ = ["Search", "SearchSettings"]
