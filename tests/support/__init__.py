"""What several test modules use: weights, audio, and a stand-in for the model hub."""
