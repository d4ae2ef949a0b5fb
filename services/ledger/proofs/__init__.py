"""What the log proves of a subject, made from its leaves and from a replica of the state map."""
