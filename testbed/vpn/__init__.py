"""The VPN attachments of a Transit Gateway: IPsec tunnels, BGP over them, the queues and clamps of each."""
