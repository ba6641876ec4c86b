"""The release process: judges new model versions, promotes them, and takes them back.

Belongs here: evaluation, gate, alias moves, and the statistics that decide them.
Does not belong here: training, scoring of live traffic, anything that loads a language model.
"""
