"""Who is trained, selected and tested: readers, labels, splits, certificate."""
