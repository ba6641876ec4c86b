"""What every process needs to run: settings, bus, metrics, errors, logging, lifecycle.

Belongs here: plumbing without knowledge of completions, feedback or versions.
Does not belong here: anything that one process alone uses.
"""
