"""An encoder for people who have no Equipoise: its parameters, a configuration, and a card that says what it is."""
