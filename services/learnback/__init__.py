"""Learnback: an OpenAI-compatible model server that learns from the people who use it."""

__version__ = "0.1.0"
