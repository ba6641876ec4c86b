"""Model versions: what there is (store), where its files are (artifacts), who it is for (aliases).

Belongs here: everything about a version that is true whoever asks.
Does not belong here: when to train one or whether it is good enough.
"""
