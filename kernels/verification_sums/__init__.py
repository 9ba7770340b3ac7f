"""Sums over the cells of every forecast field in one pass, for RMSE, MAE, bias and anomaly correlation."""
