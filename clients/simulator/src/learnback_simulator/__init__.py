"""Simulated people with hidden preferences, over public HTTP only.

Belongs here: what people like (preferences), how they err (people), how they talk to a server
(session), and how to measure what they got (measure).
Does not belong here: anything that knows how the server is built.
"""
