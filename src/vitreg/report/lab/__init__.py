"""The page of a design of the lab: the sentence, the answers, the table of effects, the cells and their courses."""
