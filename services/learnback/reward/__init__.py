"""The reward process: says how good an answer is, for every completion and on request.

Belongs here: scorers, and the worker that applies them.
Does not belong here: fitting a reward model (retraining), deciding what a score leads to (release).
"""
