"""What runs inside the sandbox: the program in one process, its tests in another."""
