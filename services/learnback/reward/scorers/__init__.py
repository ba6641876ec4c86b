"""One file per way to judge an answer; base.py says what a scorer is."""
