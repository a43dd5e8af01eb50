// Tracee
