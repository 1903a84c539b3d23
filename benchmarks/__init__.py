"""taskrun beside its peers: what each costs, and whether the promises about speed hold. See `README.md` here."""
