"""What flows through training: batches, encoders, heads, the model. Knows no training, data or benchmark."""
