"""What passes between the client and its children: messages, the relay as a state machine, its tables."""
