"""Generated code in a sandbox: bubblewrap, seccomp and limits."""
