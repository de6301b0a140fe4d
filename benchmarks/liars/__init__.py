"""What a fifth of conspiring devices gets past spot checks, and what the checks cost."""
