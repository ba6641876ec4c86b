"""The record: completions, feedback, rewards, runs, model versions, keys; one database.

Belongs here: tables, migrations, and queries that any process may run.
Does not belong here: decisions about what a row means for training or release.
"""
