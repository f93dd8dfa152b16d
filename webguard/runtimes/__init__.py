"""Which containers there are, as the runtimes and the kernel tell it. Decides nothing."""
