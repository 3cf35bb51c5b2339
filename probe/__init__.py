"""probe: tables and labels → scores → report."""
