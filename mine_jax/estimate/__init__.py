"""Lower bounds on the mutual information of paired samples."""
