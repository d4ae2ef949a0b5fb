"""What others say of our checkpoints: witnesses' cosignatures and authorities' timestamps."""
