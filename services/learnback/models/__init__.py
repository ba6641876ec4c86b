"""Models that more than one process reads or asks: the small ones, reward models, a judge.

Belongs here: turning packaged or random weights into a plain Hugging Face directory that vLLM and
TRL both load; fitting the linear reward model; opening reward models of all kinds; asking a judge.
Does not belong here: training of language models, serving people.
"""
