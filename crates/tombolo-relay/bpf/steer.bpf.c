// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Steers UDP packets to relayed addresses that are in use to the one socket of the shard that has them.
// Nothing else on the machine is touched: whatever is not found here goes the kernel's usual way.
// `cargo xtask bpf` makes steer.bpf.o of it.

#include <linux/bpf.h>
#include <linux/in.h>

#define SEC(name) __attribute__((section(name), used))
// How a map's description names numbers and types.
#define __uint(name, value) int (*name)[value]
#define __type(name, value) value *name

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*bpf_sk_assign)(void *ctx, void *sk, __u64 flags) = (void *)BPF_FUNC_sk_assign;
static long (*bpf_sk_release)(void *sock) = (void *)BPF_FUNC_sk_release;

#define AF_INET 2
#define V4 0
#define V6 1

struct ports {
	// One more than the number of the shard that has a port; 0 for ports that nobody has.
	__u16 owner[65536];
};

// Written by the relay through shared memory. One entry for each family.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct ports);
} owners SEC(".maps");

// Twice the number of the shard, plus the family.
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 512);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

// The relay IPs in network order; all zero where there is none.
volatile const __u32 relay_ip4[1];
volatile const __u32 relay_ip6[4];

SEC("sk_lookup")
int steer(struct bpf_sk_lookup *ctx)
{
	__u32 family, key, port = ctx->local_port;
	struct ports *ports;
	struct bpf_sock *sock;

	if (ctx->protocol != IPPROTO_UDP || port > 65535)
		return SK_PASS;
	if (ctx->family == AF_INET) {
		family = V4;
		if (ctx->local_ip4 == 0 || ctx->local_ip4 != relay_ip4[0])
			return SK_PASS;
	} else {
		family = V6;
		if (ctx->local_ip6[0] != relay_ip6[0] || ctx->local_ip6[1] != relay_ip6[1] ||
		    ctx->local_ip6[2] != relay_ip6[2] || ctx->local_ip6[3] != relay_ip6[3])
			return SK_PASS;
	}
	ports = bpf_map_lookup_elem(&owners, &family);
	if (!ports || !ports->owner[port])
		return SK_PASS;
	key = (ports->owner[port] - 1) * 2 + family;
	sock = bpf_map_lookup_elem(&sockets, &key);
	if (!sock)
		return SK_PASS;
	bpf_sk_assign(ctx, sock, 0);
	bpf_sk_release(sock);
	return SK_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
