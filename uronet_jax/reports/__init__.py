"""Reports: tidy rows to tables, JSON files and figures."""
