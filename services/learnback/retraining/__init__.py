"""The retraining process: builds datasets, decides when to train, runs jobs, registers versions.

Belongs here: everything between a signal in the ledger and a model version in the registry.
Does not belong here: whether a version is good enough (release), answering people (inference).
"""
