"""What every room may import: errors, files, locks, host lists, records, columns, and the contract of both halves."""
