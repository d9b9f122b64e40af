"""GPT runs under a chosen arithmetic: train, record, replay under another number format."""
