"""What data is worth: how much of a result is owed to whom, so that anybody who computes it again finds the same numbers.

`games` has the values of coalitions and what follows from them (leave-one-out, Shapley values, interactions), in exact rationals; `split` turns
them into parts of 10,000 for the contract Datasets; `records` makes explicit which records are related or old. docs/data-worth.md says what these
numbers mean and do not mean.

A value is a whole number that a trained model scores: count of right answers, or of pairs ranked rightly (the numerator of an AUC). Trainings are
exact, so the number is the same on every machine; nothing here rounds.
"""
