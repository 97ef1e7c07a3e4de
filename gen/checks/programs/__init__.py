"""Runs programs that teachers wrote against tests, out of reach of everything else.

Three processes share the work. The launcher (`launcher`), a child of the one that judges, starts a sandbox for each
program (`sandbox`). In it the tests run (`trial`), and in a process of its own below them the program (`solution`). It
is forked before the tests are read, and exchanges plain values with them (`values`, `peer`): it sees no expected
answer, and has no way to write a verdict.
"""
