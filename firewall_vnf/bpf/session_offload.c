/* Session offload: a tc program at the ingress of a firewall's interface that carries what needs no more inspection.
 *
 * A frame whose flow is in the map `flows` is turned around and leaves by the interface that it came from, as the
 * engine would have sent it. All else goes on to the engine: flows that are not in the map, SYN, FIN and RST,
 * fragments, ICMP, options and padding, and every frame that the engine would refuse. A frame is carried only if it
 * is exactly as the engine's fast path takes it (firewall_vnf/engine.py, geneve.py and packet.py say why), so whatever
 * this program does not know is the engine's to judge, count and log.
 *
 * Carried only while the firewall lives: it renews the lease with every round of its loop. Taken back by deleting the
 * flow; a program that runs meanwhile ends before the kernel's next grace period does.
 *
 * Packets are read with bpf_skb_load_bytes, never directly: of a frame that AF_PACKET sent, only the Ethernet header is
 * linear.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define GENEVE_PORT 6081
#define FRAGMENT 0xbfff /* all but "don't fragment": more fragments, an offset, the reserved bit */

/* AWS's header: version 0 and 8 words of options, no flags; class, type and length in words of each option. */
#define VERSION_LENGTH_FLAGS 0x0800
#define OPTION_ENDPOINT 0x01080102
#define OPTION_ATTACHMENT 0x01080202
#define OPTION_COOKIE 0x01080301

/* FIN, SYN, RST and ACK: of these, carried segments have ACK alone. */
#define DECISIVE_FLAGS 0x17
#define ACK_FLAG 0x10

/* What became of a frame. bpf_object.py takes names and meanings from these lines. */
enum counter {
	CARRIED, // turned around here
	BYTES,   // of the inner packets that were
	UNKNOWN, // to the engine: a flow that is not offloaded
	UNUSUAL, // to the engine: not a plain segment or datagram in AWS's header
	IDLE,    // to the engine: the session's time-out is over
	STALE,   // to the engine: the firewall has not renewed its lease
	COUNTERS,
};

/* All in front of the inner packet; words only, so that the compiler adds no padding. */
struct outer {
	struct iphdr ip;
	struct udphdr udp;
	__be16 version_length_flags;
	__be16 protocol;
	__be32 vni; /* and a reserved byte */
	__be32 endpoint_option;
	__be32 endpoint[2];
	__be32 attachment_option;
	__be32 attachment[2];
	__be32 cookie_option;
	__be32 cookie;
};
#define INNER (ETH_HLEN + sizeof(struct outer))
_Static_assert(INNER == 82, "AWS's overhead is 68 bytes");

/* IPv4 addresses are the first 4 bytes, the others 0. */
struct flow {
	__be32 endpoint[2];
	__be32 source[4], destination[4];
	__be16 ports[2];
	__u8 protocol, version;
	__u16 zero;
};

/* A direction of a session: what was carried, and of TCP the numbers of the last segment, in the machine's byte order. */
struct way {
	__u64 packets, bytes;
	__u32 next, acknowledgement, window, zero;
};

struct session {
	__u64 last, timeout; /* ns of CLOCK_MONOTONIC, ns */
	struct way ways[2];
};

struct firewall {
	__u64 lease; /* ns of CLOCK_MONOTONIC: when it ends */
	__be32 address; /* of the data interface; 0: any */
	__u32 zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct firewall);
} firewall SEC(".maps");

/* The index of the flow's session, shifted by one, and its way. The loader sets how many entries there are. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2);
	__type(key, struct flow);
	__type(value, __u32);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct session);
} sessions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 counter, __u64 amount)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		*value += amount;
}

static __always_inline int to_engine(__u32 counter)
{
	count(counter, 1);
	return TC_ACT_OK;
}

/* Read the inner IP header at INNER of a packet of `length` bytes; return its size, 0 if the packet is unusual. */
static __always_inline __u32 read_addresses(struct __sk_buff *skb, __be16 protocol, __u32 length, struct flow *flow)
{
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	} ip;

	if (protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, INNER, &ip.v4, sizeof(ip.v4)) || ip.v4.version != 4 || ip.v4.ihl != 5 ||
		    bpf_ntohs(ip.v4.tot_len) != length || ip.v4.frag_off & bpf_htons(FRAGMENT))
			return 0;
		flow->source[0] = ip.v4.saddr;
		flow->destination[0] = ip.v4.daddr;
		flow->protocol = ip.v4.protocol;
		flow->version = 4;
		return sizeof(ip.v4);
	}
	if (protocol != bpf_htons(ETH_P_IPV6) || bpf_skb_load_bytes(skb, INNER, &ip.v6, sizeof(ip.v6)) ||
	    ip.v6.version != 6 || bpf_ntohs(ip.v6.payload_len) + sizeof(ip.v6) != length)
		return 0;
	__builtin_memcpy(flow->source, &ip.v6.saddr, sizeof(flow->source));
	__builtin_memcpy(flow->destination, &ip.v6.daddr, sizeof(flow->destination));
	flow->protocol = ip.v6.nexthdr;
	flow->version = 6;
	return sizeof(ip.v6);
}

/* Whether the interface's frame is one that the engine takes, in a header as AWS sends it. */
static __always_inline int is_usual(struct __sk_buff *skb, const struct firewall *own, const struct outer *outer)
{
	return skb->pkt_type == PACKET_HOST && !skb->vlan_present && !skb->gso_size &&
	       outer->ip.version == 4 && outer->ip.ihl == 5 && bpf_ntohs(outer->ip.tot_len) == skb->len - ETH_HLEN &&
	       !(outer->ip.frag_off & bpf_htons(FRAGMENT)) && (!own->address || own->address == outer->ip.daddr) &&
	       bpf_ntohs(outer->udp.len) == skb->len - ETH_HLEN - sizeof(outer->ip) &&
	       outer->version_length_flags == bpf_htons(VERSION_LENGTH_FLAGS) && !outer->vni &&
	       outer->endpoint_option == bpf_htonl(OPTION_ENDPOINT) &&
	       outer->attachment_option == bpf_htonl(OPTION_ATTACHMENT) &&
	       outer->cookie_option == bpf_htonl(OPTION_COOKIE);
}

/* Swap the outer addresses, Ethernet's and IP's; the IP header's checksum stays right: its sum is the same. */
static __always_inline int turn_around(struct __sk_buff *skb, const struct outer *outer)
{
	struct ethhdr received, sent;
	__be32 addresses[2] = {outer->ip.daddr, outer->ip.saddr};

	if (bpf_skb_load_bytes(skb, 0, &received, sizeof(received)))
		return -1;
	__builtin_memcpy(sent.h_dest, received.h_source, ETH_ALEN);
	__builtin_memcpy(sent.h_source, received.h_dest, ETH_ALEN);
	return bpf_skb_store_bytes(skb, 0, &sent, 2 * ETH_ALEN, 0) ||
	       bpf_skb_store_bytes(skb, ETH_HLEN + 12, addresses, sizeof(addresses), 0);
}

SEC("classifier")
int session_offload(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct firewall *own = bpf_map_lookup_elem(&firewall, &zero);
	struct outer outer;
	struct flow flow = {};
	union {
		struct tcphdr tcp;
		struct udphdr udp;
	} layer4;

	if (!own || skb->protocol != bpf_htons(ETH_P_IP) || bpf_skb_load_bytes(skb, ETH_HLEN, &outer, sizeof(outer)) ||
	    outer.ip.protocol != IPPROTO_UDP || outer.udp.dest != bpf_htons(GENEVE_PORT))
		return TC_ACT_OK; /* ARP, health checks, or a frame too short: the kernel's affair, or the engine's */
	if (!is_usual(skb, own, &outer))
		return to_engine(UNUSUAL);

	const __u32 length = skb->len - INNER;
	const __u32 header = read_addresses(skb, outer.protocol, length, &flow);
	__u32 next = 0;

	if (!header)
		return to_engine(UNUSUAL);
	if (flow.protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, INNER + header, &layer4.tcp, sizeof(layer4.tcp)))
			return to_engine(UNUSUAL);
		const __u32 data = header + layer4.tcp.doff * 4;

		if (layer4.tcp.doff < 5 || data > length || (((__u8 *)&layer4.tcp)[13] & DECISIVE_FLAGS) != ACK_FLAG)
			return to_engine(UNUSUAL);
		next = bpf_ntohl(layer4.tcp.seq) + length - data;
	} else if (flow.protocol == IPPROTO_UDP) {
		if (bpf_skb_load_bytes(skb, INNER + header, &layer4.udp, sizeof(layer4.udp)) ||
		    bpf_ntohs(layer4.udp.len) != length - header)
			return to_engine(UNUSUAL);
	} else {
		return to_engine(UNUSUAL);
	}
	flow.endpoint[0] = outer.endpoint[0];
	flow.endpoint[1] = outer.endpoint[1];
	flow.ports[0] = layer4.udp.source;
	flow.ports[1] = layer4.udp.dest;

	const volatile __u32 *found = bpf_map_lookup_elem(&flows, &flow);

	if (!found)
		return to_engine(UNKNOWN);
	const __u32 place = *found; /* once: a deleted entry may be another flow's at any time */
	const __u32 index = place >> 1;
	struct session *session = bpf_map_lookup_elem(&sessions, &index);
	const __u64 now = bpf_ktime_get_ns();

	if (!session)
		return to_engine(UNKNOWN);
	if (now >= own->lease)
		return to_engine(STALE);
	if (now - session->last >= session->timeout && now > session->last)
		return to_engine(IDLE);
	if (turn_around(skb, &outer))
		return TC_ACT_SHOT; /* the kernel has no memory; half turned, it is nobody's frame */

	struct way *way = &session->ways[place & 1];

	__sync_fetch_and_add(&way->packets, 1);
	__sync_fetch_and_add(&way->bytes, length);
	session->last = now;
	if (flow.protocol == IPPROTO_TCP) {
		way->next = next;
		way->acknowledgement = bpf_ntohl(layer4.tcp.ack_seq);
		way->window = bpf_ntohs(layer4.tcp.window);
	}
	count(CARRIED, 1);
	count(BYTES, length);
	return bpf_redirect(skb->ifindex, 0);
}

char LICENSE[] SEC("license") = "GPL";
