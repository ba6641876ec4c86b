"""Models that are made or fitted without a model hub: the demo's, the tests', the reward model.

Belongs here: turning packaged or random weights into a plain Hugging Face directory that vLLM and
TRL both load; the linear reward model, which needs numpy alone.
Does not belong here: training of language models, serving.
"""
