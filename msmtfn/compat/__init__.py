"""Private names of PyTorch and Ray that msmtfn depends on, with the reasons; all are checked on import."""
