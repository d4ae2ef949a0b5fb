"""Who a person is to us: the only place that can link a contact point to a pseudonym, and the only one with keys.

Reads: addresses and personal fields over HTTP from collectors; `consent.recorded` for suppression.
Writes: DataErased to `consent.stated`. Answers ciphertexts, and keys of single compartments for evidence.
Owns: identifiers (keyed hashes), contact points (sealed), subject keys (wrapped), suppression, disclosures.
"""
