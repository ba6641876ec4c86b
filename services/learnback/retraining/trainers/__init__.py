"""One file per training algorithm, each a function from a plan to a trained adapter; torch and TRL
live here.

Does not belong here: reading the ledger, choosing data, process signals and exit codes (job.py).
"""
