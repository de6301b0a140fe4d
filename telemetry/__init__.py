"""What a device knows of its own and others' health: samples, score, circuit breaker."""
