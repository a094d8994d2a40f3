"""A model's papers: what it was trained on, by whom, and who checked it, as a signed statement that is verified offline."""
