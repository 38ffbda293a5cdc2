"""word-count: a text to how often each of its words comes."""

from word_count.models import WordCount, WordCountResult

__all__ = ["WordCount", "WordCountResult"]
