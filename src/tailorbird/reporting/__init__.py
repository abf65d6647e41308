"""What people see of a run: the live view, the ranked table with its verdict, and the report page."""
