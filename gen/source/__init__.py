"""The source: files, their rows, and the prompts made from them."""
