"""Every private name of PyTorch and Ray that msmtfn relies on, with the reason; each is checked when it is imported."""
