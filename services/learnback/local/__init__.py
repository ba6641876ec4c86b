"""Everything on one machine: `learnback up`, `learnback demo` and what operators type.

Belongs here: starting the processes, and reading or asking what they hold, for a person.
Does not belong here: anything that a process needs to do its own work.
"""
