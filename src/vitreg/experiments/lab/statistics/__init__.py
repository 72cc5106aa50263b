"""What the runs of a design say: differences with intervals over seeds, the table of effects, answers to questions."""
