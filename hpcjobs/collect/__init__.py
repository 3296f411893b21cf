"""What logs say: one file per format. They read; they never execute or trust."""
