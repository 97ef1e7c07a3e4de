"""Runs programs that teachers wrote against tests, isolated from everything else.

Three processes share the work. The launcher (`launcher`), a child of the process that judges, starts a sandbox for each
program (`sandbox`). In the sandbox run the tests (`trial`) and, in a separate process below them, the program
(`solution`). The program's process is forked before the tests are read, and exchanges only plain values with them
(`values`, `peer`): it never sees an expected result, and can't write a verdict.
"""
