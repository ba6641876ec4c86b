"""From every kind of signal to rows that a method trains on: read, sift, split, shape, save.

One file a shape (`pairs`, `completions`, `labels`, `prompts`), each a pure function of what
`examining` found. Nothing here knows about runs, and nothing imports torch.
"""
