"""`learnback ladder`: how far each way of learning gets on one model, by a judge that none sees.

Belongs here: the measurement and its page. Does not: training (learnback.retraining, whose own jobs
are run), prompt strategies (applied as they are served), simulated people (learnback_simulator).
"""
