"""What did the runs leave? Reads their logs and files into runs, measurements and failures, and executes nothing."""
