"""`unime search FOLDER "query"`: find pictures and texts of a folder by what they show or say."""

from __future__ import annotations

from unime.search.index import Hit, SearchFolder, open_search
from unime.search.results_page import show

__all__ = ["Hit", "SearchFolder", "open_search", "show"]
