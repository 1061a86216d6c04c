"""Inspections that ship with the firewall. Copy one and name yours in the configuration."""
