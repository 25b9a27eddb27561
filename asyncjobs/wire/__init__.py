"""What travels between a runner and its worker processes, and in which form."""
