"""How rows are read from the kinds of files that hold prompts: one module a kind."""
