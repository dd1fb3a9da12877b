"""The command-line tools, one file each, named as users type them."""
