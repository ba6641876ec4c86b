"""Answers the OpenAI API with the model version that the release names; records what it served.

Belongs here: the middleware inside vLLM's own server (or before any other engine, behind our
proxy), routing, adapters, and the recorder.
Does not belong here: deciding what a version is worth, or reading completions back.
"""
