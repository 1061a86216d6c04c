"""The comparison of architectures that insert firewalls: points measured alike, and the claims that they decide."""
