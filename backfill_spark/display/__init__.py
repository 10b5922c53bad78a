"""What people see: plans, jobs and scorers as text and HTML, and the progress bar."""
