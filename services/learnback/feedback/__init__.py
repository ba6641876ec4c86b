"""The feedback process: takes human signals in, and keeps the ledger of all that was said.

Belongs here: the HTTP API for feedback and completions, the recorder, the relay, the grace time.
Does not belong here: what a signal is worth for training, or for a release.
"""
