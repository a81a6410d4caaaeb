"""What predictions say: scores, tests, calibration, tables, figures."""
