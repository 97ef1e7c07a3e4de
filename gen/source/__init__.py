"""The source: files, their rows, and the prompts made of them."""
