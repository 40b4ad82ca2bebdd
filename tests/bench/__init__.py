"""Tollgate beside nginx, a direct call and its peers, in one run: `make bench`. Nothing here asserts a time."""
