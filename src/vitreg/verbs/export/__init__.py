"""`export`: any model, a trained run or a repaired one, for another library."""
