"""Pure rules on the ground floor: standard library only, no await, no clock, no randomness."""
