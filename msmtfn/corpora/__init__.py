"""Makes calls: speech from a synthesiser, over a telephone, with a manifest."""
