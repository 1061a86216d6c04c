/* The bare appliance in BPF, for comparison: turns every GENEVE frame around and looks into none. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define GENEVE_PORT 6081

SEC("classifier")
int turn_around(struct __sk_buff *skb)
{
	struct {
		struct ethhdr ethernet;
		struct iphdr ip;
		struct udphdr udp;
	} __attribute__((packed)) frame;
	__u8 sender[ETH_ALEN];

	if (skb->pkt_type != PACKET_HOST || bpf_skb_load_bytes(skb, 0, &frame, sizeof(frame)) ||
	    frame.ethernet.h_proto != bpf_htons(ETH_P_IP) || frame.ip.protocol != IPPROTO_UDP ||
	    frame.udp.dest != bpf_htons(GENEVE_PORT))
		return TC_ACT_OK;
	__builtin_memcpy(sender, frame.ethernet.h_source, ETH_ALEN);
	__builtin_memcpy(frame.ethernet.h_source, frame.ethernet.h_dest, ETH_ALEN);
	__builtin_memcpy(frame.ethernet.h_dest, sender, ETH_ALEN);
	__be32 addresses[2] = {frame.ip.daddr, frame.ip.saddr};

	if (bpf_skb_store_bytes(skb, 0, &frame.ethernet, 2 * ETH_ALEN, 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + 12, addresses, sizeof(addresses), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

char LICENSE[] SEC("license") = "GPL";
