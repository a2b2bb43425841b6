"""The door: files that come from outside are read here, and checked before a library sees them.

What is not let in raises `Refused`, a ValueError that says why; who reads the file names it.
"""
