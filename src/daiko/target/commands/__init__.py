"""The commands that a logical unit serves: handlers only, each marked with the rows it serves."""
