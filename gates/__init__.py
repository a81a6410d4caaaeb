"""Gate values and what each branch contributes."""
