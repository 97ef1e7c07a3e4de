"""A first run: a recipe and its prompts, for the built-in teacher."""
