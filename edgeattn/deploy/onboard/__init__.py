"""What runs on a board: sent there as source for each request, it needs nothing but Python.

Only the standard library is imported here, and nothing of the rest of the toolkit: a board may
have none of it yet.
"""
