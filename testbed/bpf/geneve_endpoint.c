/* The GENEVE endpoint of a Gateway Load Balancer: a tc program at the ingress of all interfaces of its namespace.
 *
 * From the interface "plain" (OVS's side) it takes an IP packet whose Ethernet addresses carry indices, puts AWS's
 * header around it and sends it to the target. From a target's interface it takes that frame back, if it is one that
 * this endpoint sent to this target, and hands the IP packet to "plain". docs/architecture.md has the plain frames.
 *
 * Header, acceptance of returned frames and MTU: AWS, Gateway Load Balancer guide, "Target groups", and the header
 * files of aws-samples/aws-gateway-load-balancer-tunnel-handler; GENEVE is RFC 8926.
 *
 * A frame to the resetter, which is no target, is not sent on: the TCP segment in it is answered with a RST.
 *
 * No state per flow: the flow cookie is a keyed hash of the flow, the same in both directions, so the way back
 * computes what it must be. AWS's own cookies are random; nothing in them has a meaning to an appliance.
 *
 * Packets are read with bpf_skb_load_bytes, never directly: of a frame larger than a page that AF_PACKET sent, only
 * the Ethernet header is linear.
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
#define ENTROPY_PORTS 49152 /* and up: the range of dynamic ports, RFC 6335 */
#define TTL 64
#define MAX_ZONES 8
#define MAX_TARGETS 512 /* AWS's quota is 300 a load balancer */
#define MAX_ENDPOINTS 1024
#define RESETTER 0xffff /* in place of a target's index */
#define MAX_EXTENSION_HEADERS 4
#define FRAGMENT 0x3fff /* more fragments, or an offset */
#define DONT_FRAGMENT 0x4000

/* AWS's options: class, type, length in words. */
#define OPTION_ENDPOINT 0x01080102
#define OPTION_ATTACHMENT 0x01080202
#define OPTION_COOKIE 0x01080301

/* What became of a packet. geneve_endpoint.py takes names and meanings from these lines. */
enum counter {
	PASSED,           // from an appliance, not GENEVE (ARP, health checks): to the kernel
	ENCAPSULATED,     // sent to a target
	DECAPSULATED,     // came back from a target and was sent on
	PLAIN_ADDRESSES,  // Ethernet addresses that carry no indices, or a VLAN tag
	PLAIN_NODE,       // the zone has no load balancer node
	PLAIN_ENDPOINT,   // no VPC endpoint has this index
	PLAIN_TARGET,     // no appliance has this index
	PLAIN_MALFORMED,  // neither IPv4 nor IPv6, or its length does not fit the frame
	PLAIN_TOO_LARGE,  // larger than the load balancer's MTU
	PLAIN_SEGMENTS,   // not yet segmented (TSO or GSO is on at the sender)
	PLAIN_FAILED,     // the kernel could not make room for the header, or cut a segment to the length of a RST
	RESET,            // a TCP segment to the resetter, answered with a RST
	RESET_NOT_TCP,    // to the resetter, but no TCP segment: another protocol, a fragment, or cut short
	RESET_OF_RESET,   // a TCP segment to the resetter that is a RST itself
	RETURN_MALFORMED, // shorter than AWS's header, or lengths of IP, UDP and the inner packet disagree
	RETURN_FRAGMENT,  // a fragment
	RETURN_OPTIONS,   // IP options in the outer header
	RETURN_CHECKSUM,  // wrong checksum of the outer IP header
	RETURN_TTL,       // outer time to live 0
	RETURN_TARGET,    // not from the address of the appliance on this interface
	RETURN_NODE,      // not to a load balancer node
	RETURN_HEADER,    // GENEVE version, option length, flags or VNI
	RETURN_PROTOCOL,  // no inner packet of the protocol type that the header names
	RETURN_TLV,       // not AWS's three options in their order, or an attachment that is not 0
	RETURN_ENDPOINT,  // no VPC endpoint has this id
	RETURN_TOO_LARGE, // inner packet larger than the load balancer's MTU
	RETURN_PORT,      // source port is not the flow's
	RETURN_COOKIE,    // flow cookie is not the one that this target was given for this flow at this endpoint
	RETURN_FAILED,    // the kernel could not take the header off
	COUNTERS,
};

/* What AWS puts between Ethernet header and inner packet; words only, so that the compiler adds no padding. */
struct header {
	struct iphdr ip;
	struct udphdr udp;
	__u8 version_length; /* version 0, option length in words */
	__u8 flags;
	__be16 protocol;
	__be32 vni; /* and a reserved byte */
	__be32 endpoint_option;
	__be32 endpoint[2];
	__be32 attachment_option;
	__be32 attachment[2];
	__be32 cookie_option;
	__be32 cookie;
};
#define OPTION_WORDS 8
_Static_assert(sizeof(struct header) == 68, "AWS's overhead is 68 bytes");

struct config {
	__u32 plain; /* interface index */
	__u32 max_inner;
	__u32 key[2];
	__be32 nodes[MAX_ZONES]; /* by number of the zone, from 1 */
};

struct target {
	__be32 address; /* 0: there is none */
	__u32 interface;
	__u8 mac[ETH_ALEN];
	__u8 own_mac[ETH_ALEN];
};

struct endpoint_id {
	__be32 half[2];
};

struct traffic {
	__u64 packets, bytes;
};

struct target_traffic {
	struct traffic sent, returned;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_TARGETS);
	__type(key, __u32);
	__type(value, struct target);
} targets SEC(".maps");

/* Index of the target at an interface. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_TARGETS);
	__type(key, __u32);
	__type(value, __u32);
} interfaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_ENDPOINTS);
	__type(key, __u32);
	__type(value, struct endpoint_id);
} endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ENDPOINTS);
	__type(key, struct endpoint_id);
	__type(value, __u32);
} endpoint_index SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_TARGETS);
	__type(key, __u32);
	__type(value, struct target_traffic);
} target_traffic SEC(".maps");

/* A flow in both directions: its ends are in order before it is hashed. 3-tuple: ports 0. */
struct end {
	__be32 address[4]; /* IPv4: the first */
	__be16 port;
	__u16 zero;
};

struct flow {
	struct end source, destination;
	__u32 protocol;
};

static __always_inline int count(__u32 counter, int action)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		++*value;
	return action;
}

static __always_inline int drop(__u32 counter)
{
	return count(counter, TC_ACT_SHOT);
}

/* Put a frame where the other end of an interface receives, as if it had crossed the link: without the queue that waits
 * there for a turn of the processor. What the link would have found out anew is said here; where it cannot be said,
 * because the packet inside is of another IP version than the frame around it, the frame crosses the link. */
static __always_inline int hand_over(struct __sk_buff *skb, __u32 interface, __be16 inner)
{
	if (inner != bpf_htons(ETH_P_IP) || bpf_skb_change_type(skb, PACKET_HOST))
		return bpf_redirect(interface, 0);
	return bpf_redirect_peer(interface, 0);
}

static __always_inline __u16 checksum(void *words, __u32 size)
{
	__u32 sum = bpf_csum_diff(0, 0, words, size, 0);

	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

#define ROTATE(x, bits) ((x) << (bits) | (x) >> (32 - (bits)))
#define SIP_ROUND()                                                                                            \
	do {                                                                                                   \
		v0 += v1, v1 = ROTATE(v1, 5) ^ v0, v0 = ROTATE(v0, 16);                                        \
		v2 += v3, v3 = ROTATE(v3, 8) ^ v2;                                                             \
		v0 += v3, v3 = ROTATE(v3, 7) ^ v0;                                                             \
		v2 += v1, v1 = ROTATE(v1, 13) ^ v2, v2 = ROTATE(v2, 16);                                       \
	} while (0)
#define SIP_WORD(word)                                                                                         \
	do {                                                                                                   \
		__u32 w = word;                                                                                \
		v3 ^= w;                                                                                       \
		SIP_ROUND();                                                                                   \
		SIP_ROUND();                                                                                   \
		v0 ^= w;                                                                                       \
	} while (0)
#define SIP_END(end)                                                                                           \
	do {                                                                                                   \
		SIP_WORD((end)->address[0]);                                                                   \
		SIP_WORD((end)->address[1]);                                                                   \
		SIP_WORD((end)->address[2]);                                                                   \
		SIP_WORD((end)->address[3]);                                                                   \
		SIP_WORD((end)->port);                                                                         \
	} while (0)

static __always_inline int precedes(const struct end *one, const struct end *other)
{
	for (int i = 0; i < 4; i++)
		if (one->address[i] != other->address[i])
			return bpf_ntohl(one->address[i]) < bpf_ntohl(other->address[i]);
	return bpf_ntohs(one->port) < bpf_ntohs(other->port);
}

/* HalfSipHash-2-4 (Aumasson, Bernstein) of node, endpoint, target and the flow without its direction: 13 words. */
static __noinline __u32 flow_cookie(const __u32 key[2], __be32 node, __u32 endpoint, __u32 target,
					 const struct flow *flow)
{
	__u32 v0 = key[0], v1 = key[1], v2 = 0x6c796765 ^ key[0], v3 = 0x74656462 ^ key[1];

	SIP_WORD(node);
	SIP_WORD(endpoint << 16 | target);
	SIP_WORD(flow->protocol);
	if (precedes(&flow->source, &flow->destination)) {
		SIP_END(&flow->source);
		SIP_END(&flow->destination);
	} else {
		SIP_END(&flow->destination);
		SIP_END(&flow->source);
	}
	SIP_WORD(13 * 4 << 24);
	v2 ^= 0xff;
	SIP_ROUND();
	SIP_ROUND();
	SIP_ROUND();
	SIP_ROUND();
	return v1 ^ v3;
}

static __always_inline __be16 entropy_port(__u32 cookie)
{
	return bpf_htons(ENTROPY_PORTS | (cookie & 0x3fff));
}

/* The length of the IP packet at offset by its own header, 0 if there is none. */
static __noinline __u32 packet_length(struct __sk_buff *skb, __u32 offset, __be16 protocol)
{
	if (protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5 ||
		    bpf_ntohs(ip.tot_len) < ip.ihl * 4)
			return 0;
		return bpf_ntohs(ip.tot_len);
	}
	if (protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 6)
			return 0;
		return sizeof(ip) + bpf_ntohs(ip.payload_len);
	}
	return 0;
}

/* Fill in addresses and protocol from the IP header at offset.
 * Returns where the transport header is, 0 if it is not in this packet (fragments), -1 if there is no IP header. */
static __noinline int read_network(struct __sk_buff *skb, __u32 offset, __be16 protocol, struct flow *flow)
{
	__builtin_memset(flow, 0, sizeof(*flow));
	if (protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
			return -1;
		flow->source.address[0] = ip.saddr;
		flow->destination.address[0] = ip.daddr;
		flow->protocol = ip.protocol;
		return ip.frag_off & bpf_htons(FRAGMENT) ? 0 : offset + ip.ihl * 4;
	}
	struct ipv6hdr ip;
	struct {
		__u8 next, length;
	} extension;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 6)
		return -1;
	__builtin_memcpy(flow->source.address, &ip.saddr, 16);
	__builtin_memcpy(flow->destination.address, &ip.daddr, 16);
	flow->protocol = ip.nexthdr;
	offset += sizeof(ip);
	for (int i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		if (flow->protocol != IPPROTO_HOPOPTS && flow->protocol != IPPROTO_ROUTING &&
		    flow->protocol != IPPROTO_DSTOPTS && flow->protocol != IPPROTO_FRAGMENT)
			return offset;
		if (bpf_skb_load_bytes(skb, offset, &extension, sizeof(extension)))
			return 0;
		int fragment = flow->protocol == IPPROTO_FRAGMENT;
		flow->protocol = extension.next;
		if (fragment)
			return 0;
		offset += (extension.length + 1) * 8;
	}
	return 0;
}

/* The flow of the IP packet at offset: 5-tuple for TCP and UDP, 3-tuple for the rest (AWS, "Gateway Load Balancers",
 * flow stickiness); an ICMP error belongs to the flow of the packet that it quotes. Returns 0, or -1 if malformed. */
static __always_inline int read_flow(struct __sk_buff *skb, __u32 offset, __be16 protocol, struct flow *flow)
{
	int transport = read_network(skb, offset, protocol, flow);
	__u8 type;

	if (transport < 0)
		return -1;
	if (transport && flow->protocol == (protocol == bpf_htons(ETH_P_IP) ? IPPROTO_ICMP : IPPROTO_ICMPV6) &&
	    !bpf_skb_load_bytes(skb, transport, &type, sizeof(type))) {
		/* Unreachable, source quench, redirect, time exceeded, parameter problem; ICMPv6: below 128. */
		int error = protocol == bpf_htons(ETH_P_IP) ?
				    type == 3 || type == 4 || type == 5 || type == 11 || type == 12 :
				    type < 128;
		struct flow quoted;

		if (error) {
			int quoted_transport = read_network(skb, transport + 8, protocol, &quoted);

			if (quoted_transport >= 0) {
				*flow = quoted;
				transport = quoted_transport;
			}
		}
	}
	if (transport && (flow->protocol == IPPROTO_TCP || flow->protocol == IPPROTO_UDP)) {
		__be16 ports[2];

		if (!bpf_skb_load_bytes(skb, transport, ports, sizeof(ports))) {
			flow->source.port = ports[0];
			flow->destination.port = ports[1];
		}
	}
	return 0;
}

/* A frame from the interface "plain" whose addresses and length are right. */
struct plain {
	__be32 node; /* address */
	struct endpoint_id id;
	__u32 endpoint, target; /* indices */
	__u32 length; /* of the IP packet */
	__be16 protocol, zero;
};

/* A TCP header behind what its checksum covers besides: the pseudo headers of RFC 9293, 3.1 and RFC 8200, 8.1 are the
 * same sum, because the words that an IPv4 address leaves are 0. */
struct segment {
	__be32 source[4], destination[4];
	__be32 length, protocol;
	struct tcphdr tcp;
};

/* Send the RST that answers the TCP segment of length bytes (with IP) back to the VPC endpoint: RFC 9293, 3.10.7.1.
 * Its checksum is looked at as little as on the way to a target. */
static __noinline int reset(struct __sk_buff *skb, const struct config *cfg, const struct plain *plain)
{
	struct flow flow;
	struct tcphdr tcp;
	int transport = read_network(skb, ETH_HLEN, plain->protocol, &flow);

	if (transport <= 0 || flow.protocol != IPPROTO_TCP || bpf_skb_load_bytes(skb, transport, &tcp, sizeof(tcp)))
		return drop(RESET_NOT_TCP);
	int data = (int)(ETH_HLEN + plain->length) - transport - tcp.doff * 4;

	if (tcp.doff < 5 || data < 0)
		return drop(RESET_NOT_TCP);
	if (tcp.rst)
		return drop(RESET_OF_RESET);

	struct segment answer = {
		.length = bpf_htonl(sizeof(tcp)),
		.protocol = bpf_htonl(IPPROTO_TCP),
		.tcp.source = tcp.dest,
		.tcp.dest = tcp.source,
		.tcp.doff = sizeof(tcp) / 4,
		.tcp.rst = 1,
	};
	__builtin_memcpy(answer.source, flow.destination.address, 16);
	__builtin_memcpy(answer.destination, flow.source.address, 16);
	if (tcp.ack) {
		answer.tcp.seq = tcp.ack_seq;
	} else {
		answer.tcp.ack = 1;
		answer.tcp.ack_seq = bpf_htonl(bpf_ntohl(tcp.seq) + data + tcp.syn + tcp.fin);
	}
	answer.tcp.check = checksum(&answer, sizeof(answer));

	struct ethhdr ethernet = {
		.h_dest = {0x02, 0x45, 0, 0, plain->endpoint >> 8, plain->endpoint},
		.h_source = {0x02, 0x47, 0, 0, RESETTER >> 8, RESETTER & 0xff},
		.h_proto = plain->protocol,
	};
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	} ip = {};
	int network;

	if (plain->protocol == bpf_htons(ETH_P_IP)) {
		network = sizeof(ip.v4);
		ip.v4.version = 4;
		ip.v4.ihl = 5;
		ip.v4.tot_len = bpf_htons(sizeof(ip.v4) + sizeof(tcp));
		ip.v4.frag_off = bpf_htons(DONT_FRAGMENT);
		ip.v4.ttl = TTL;
		ip.v4.protocol = IPPROTO_TCP;
		ip.v4.saddr = answer.source[0];
		ip.v4.daddr = answer.destination[0];
		ip.v4.check = checksum(&ip.v4, sizeof(ip.v4));
	} else {
		network = sizeof(ip.v6);
		ip.v6.version = 6;
		ip.v6.payload_len = bpf_htons(sizeof(tcp));
		ip.v6.nexthdr = IPPROTO_TCP;
		ip.v6.hop_limit = TTL;
		__builtin_memcpy(&ip.v6.saddr, answer.source, 16);
		__builtin_memcpy(&ip.v6.daddr, answer.destination, 16);
	}
	int options = transport - ETH_HLEN - network;

	/* In two steps: the kernel takes nothing off the end that it holds for a part of the headers. */
	if (bpf_skb_change_tail(skb, transport + sizeof(tcp), 0) ||
	    (options && bpf_skb_adjust_room(skb, -options, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_NO_CSUM_RESET)) ||
	    bpf_skb_store_bytes(skb, 0, &ethernet, sizeof(ethernet), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &ip, network, 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + network, &answer.tcp, sizeof(tcp), 0))
		return drop(PLAIN_FAILED);
	return count(RESET, hand_over(skb, cfg->plain, plain->protocol));
}

/* Send a plain frame's packet to its target. */
static __noinline int encapsulate(struct __sk_buff *skb, const struct config *cfg, const struct plain *plain)
{
	__u32 target_index = plain->target, length = plain->length;
	struct target *target = bpf_map_lookup_elem(&targets, &target_index);
	struct flow flow;

	if (!target || !target->address)
		return drop(PLAIN_TARGET);
	if (read_flow(skb, ETH_HLEN, plain->protocol, &flow))
		return drop(PLAIN_MALFORMED);
	__u32 cookie = flow_cookie(cfg->key, plain->node, plain->endpoint, target_index, &flow);
	struct ethhdr ethernet = {.h_proto = bpf_htons(ETH_P_IP)};
	struct header header = {
		.ip.version = 4,
		.ip.ihl = 5,
		.ip.tot_len = bpf_htons(sizeof(header) + length),
		.ip.frag_off = bpf_htons(DONT_FRAGMENT), /* an atomic datagram, so its id is 0: RFC 6864 */
		.ip.ttl = TTL,
		.ip.protocol = IPPROTO_UDP,
		.ip.saddr = plain->node,
		.ip.daddr = target->address,
		.udp.source = entropy_port(cookie),
		.udp.dest = bpf_htons(GENEVE_PORT),
		.udp.len = bpf_htons(sizeof(header) - sizeof(struct iphdr) + length),
		.version_length = OPTION_WORDS,
		.protocol = plain->protocol,
		.endpoint_option = bpf_htonl(OPTION_ENDPOINT),
		.endpoint = {plain->id.half[0], plain->id.half[1]},
		.attachment_option = bpf_htonl(OPTION_ATTACHMENT),
		.cookie_option = bpf_htonl(OPTION_COOKIE),
		.cookie = bpf_htonl(cookie),
	};
	header.ip.check = checksum(&header.ip, sizeof(header.ip));
	__builtin_memcpy(ethernet.h_dest, target->mac, ETH_ALEN);
	__builtin_memcpy(ethernet.h_source, target->own_mac, ETH_ALEN);
	__u32 interface = target->interface;

	/* Without the ENCAP flags: they mark the packet as a tunnel's for segmentation offload. On the kernel datapath
	 * the mark would outlive the way back, and a second encapsulation of the packet would be refused. */
	if ((ETH_HLEN + length < skb->len && bpf_skb_change_tail(skb, ETH_HLEN + length, 0)) ||
	    bpf_skb_adjust_room(skb, sizeof(header), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_NO_CSUM_RESET) ||
	    bpf_skb_store_bytes(skb, 0, &ethernet, sizeof(ethernet), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &header, sizeof(header), 0))
		return drop(PLAIN_FAILED);

	struct target_traffic *traffic = bpf_map_lookup_elem(&target_traffic, &target_index);

	if (traffic) {
		traffic->sent.packets++;
		traffic->sent.bytes += length;
	}
	return count(ENCAPSULATED, hand_over(skb, interface, plain->protocol));
}

static __noinline int from_plain(struct __sk_buff *skb, const struct config *cfg)
{
	struct ethhdr ethernet;

	if (skb->vlan_present || bpf_skb_load_bytes(skb, 0, &ethernet, sizeof(ethernet)))
		return drop(PLAIN_ADDRESSES);
	const __u8 *to = ethernet.h_dest, *from = ethernet.h_source;

	if (to[0] != 0x02 || to[1] != 0x47 || to[2] || to[3] || from[0] != 0x02 || from[1] != 0x45 || from[2])
		return drop(PLAIN_ADDRESSES);
	__u32 zone = from[3];
	struct plain plain = {
		.endpoint = from[4] << 8 | from[5],
		.target = to[4] << 8 | to[5],
		.protocol = ethernet.h_proto,
	};

	if (zone >= MAX_ZONES || !cfg->nodes[zone])
		return drop(PLAIN_NODE);
	plain.node = cfg->nodes[zone];
	struct endpoint_id *id = bpf_map_lookup_elem(&endpoints, &plain.endpoint);

	if (!id || !(id->half[0] | id->half[1]))
		return drop(PLAIN_ENDPOINT);
	plain.id = *id;
	plain.length = packet_length(skb, ETH_HLEN, plain.protocol);
	if (!plain.length || ETH_HLEN + plain.length > skb->len)
		return drop(PLAIN_MALFORMED);
	if (plain.length > cfg->max_inner)
		return drop(PLAIN_TOO_LARGE);
	if (skb->gso_size)
		return drop(PLAIN_SEGMENTS);
	return plain.target == RESETTER ? reset(skb, cfg, &plain) : encapsulate(skb, cfg, &plain);
}

static __always_inline int is_node(const struct config *cfg, __be32 address)
{
	for (int zone = 1; zone < MAX_ZONES; zone++)
		if (cfg->nodes[zone] == address)
			return 1;
	return 0;
}

static __noinline int decapsulate(struct __sk_buff *skb, const struct config *cfg)
{
	struct header header;
	struct iphdr *ip = &header.ip;
	struct udphdr udp;

	if (skb->vlan_present || skb->protocol != bpf_htons(ETH_P_IP) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, ip, sizeof(*ip)) || ip->protocol != IPPROTO_UDP)
		return count(PASSED, TC_ACT_OK);
	/* Only the first fragment says its port; no UDP service but this one is here to miss the others. */
	if (ip->frag_off & bpf_htons(FRAGMENT))
		return drop(RETURN_FRAGMENT);
	if (bpf_skb_load_bytes(skb, ETH_HLEN + ip->ihl * 4, &udp, sizeof(udp)) ||
	    udp.dest != bpf_htons(GENEVE_PORT))
		return count(PASSED, TC_ACT_OK);

	if (ip->version != 4 || ip->ihl != 5)
		return drop(RETURN_OPTIONS);
	if (checksum(ip, sizeof(*ip)))
		return drop(RETURN_CHECKSUM);
	if (!ip->ttl)
		return drop(RETURN_TTL);

	__u32 interface = skb->ifindex;
	__u32 *target_index = bpf_map_lookup_elem(&interfaces, &interface);
	struct target *target = target_index ? bpf_map_lookup_elem(&targets, target_index) : 0;

	if (!target || target->address != ip->saddr || target->interface != interface)
		return drop(RETURN_TARGET);
	if (!is_node(cfg, ip->daddr))
		return drop(RETURN_NODE);

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &header, sizeof(header)))
		return drop(RETURN_MALFORMED);
	if (header.version_length != OPTION_WORDS || header.flags || header.vni)
		return drop(RETURN_HEADER);
	if (header.endpoint_option != bpf_htonl(OPTION_ENDPOINT) ||
	    header.attachment_option != bpf_htonl(OPTION_ATTACHMENT) ||
	    header.attachment[0] || header.attachment[1] || header.cookie_option != bpf_htonl(OPTION_COOKIE))
		return drop(RETURN_TLV);
	struct endpoint_id id = {{header.endpoint[0], header.endpoint[1]}};
	__u32 *endpoint_number = bpf_map_lookup_elem(&endpoint_index, &id);

	if (!endpoint_number)
		return drop(RETURN_ENDPOINT);

	struct ethhdr ethernet = {
		.h_dest = {0x02, 0x45, 0, 0, *endpoint_number >> 8, *endpoint_number},
		.h_source = {0x02, 0x47, 0, 0, *target_index >> 8, *target_index},
		.h_proto = header.protocol,
	};
	const __u32 inner = ETH_HLEN + sizeof(header);
	__u32 length = packet_length(skb, inner, header.protocol);
	struct flow flow;

	if (!length || read_flow(skb, inner, header.protocol, &flow))
		return drop(RETURN_PROTOCOL);
	if (inner + length > skb->len || bpf_ntohs(ip->tot_len) != sizeof(header) + length ||
	    bpf_ntohs(header.udp.len) != sizeof(header) - sizeof(*ip) + length)
		return drop(RETURN_MALFORMED);
	if (length > cfg->max_inner)
		return drop(RETURN_TOO_LARGE);
	__u32 cookie = flow_cookie(cfg->key, ip->daddr, *endpoint_number, *target_index, &flow);

	if (header.cookie != bpf_htonl(cookie))
		return drop(RETURN_COOKIE);
	if (header.udp.source != entropy_port(cookie))
		return drop(RETURN_PORT);

	struct target_traffic *traffic = bpf_map_lookup_elem(&target_traffic, target_index);

	if ((inner + length < skb->len && bpf_skb_change_tail(skb, inner + length, 0)) ||
	    bpf_skb_adjust_room(skb, -(int)sizeof(header), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_NO_CSUM_RESET) ||
	    bpf_skb_store_bytes(skb, 0, &ethernet, sizeof(ethernet), 0))
		return drop(RETURN_FAILED);
	if (traffic) {
		traffic->returned.packets++;
		traffic->returned.bytes += length;
	}
	return count(DECAPSULATED, hand_over(skb, cfg->plain, header.protocol));
}

SEC("classifier")
int geneve_endpoint(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct config *cfg = bpf_map_lookup_elem(&config, &zero);

	if (!cfg)
		return TC_ACT_SHOT;
	return skb->ifindex == cfg->plain ? from_plain(skb, cfg) : decapsulate(skb, cfg);
}

char LICENSE[] SEC("license") = "GPL";
