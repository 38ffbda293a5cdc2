"""Programs that run inside the sandbox: plain files that import nothing of ours."""
