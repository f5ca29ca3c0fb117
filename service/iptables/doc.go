// Package iptables keeps Services in iptables: a dataplane of package service for hosts without nftables, or whose other programs use iptables. service/nft is quicker and does more.
//
// # What it does
//
// The table nat translates the first packet of a connection to one of the endpoints, the table filter refuses or drops what goes to no endpoint:
//
//	PREROUTING, OUTPUT -> PODNET-SVC-DISPATCH -> PODNET-SVC-V-* by address, PODNET-SVC-P-* by node port
//	                                             -> [PODNET-SVC-F-*] source ranges -> [PODNET-SVC-X-*] by where the packet comes from
//	                                             -> PODNET-SVC-C-* (all endpoints) or -L-* (those of this node) -> [PODNET-SVC-E-*] remembers the client -> DNAT
//	POSTROUTING        -> PODNET-SVC-POSTROUTING -> PODNET-SVC-MASQUERADE if marked, PODNET-SVC-H-*: an endpoint that talks to itself
//	INPUT, FORWARD, OUTPUT (new) -> PODNET-SVC-FILTER -> PODNET-SVC-V-*, PODNET-SVC-P-*: REJECT without endpoints and for a ClusterIP's other ports, DROP
//
// Addresses and ports are found in a tree of chains, not in one list: with 10,000 Services the first packet of a connection is compared with about 80 rules in all, with
// kube-proxy's with up to 10,000. Endpoints are
// chosen by "statistic"; session affinity is "recent", which remembers 100 clients per endpoint unless its module parameter ip_list_tot says more. Packets to be masqueraded carry a bit of
// the mark (0x4000) until they leave, when it is cleared.
//
// # What it owns
//
// Chains whose names begin with PODNET-SVC-, or, with [Options].Name, PODNET-SVC and four letters of its hash, and the rules in built-in chains that lead to them. The
// first rule of each chain carries a fingerprint of the whole in its comment, so that observing means comparing fingerprints and counting rules. Rules that lead to us are put in
// front of all others, by go-iptables; chains are written by iptables-restore --noflush, only those that differ, each table in one step.
//
// # What it never touches
//
// Other chains, policies, other tables, sysctls: forwarding has to be on (net.ipv4.ip_forward), route_localnet is not needed because NodePorts never listen on loopback. Rules that
// others put in front of ours act before ours. Health check node ports are not opened in INPUT.
//
// # Failure
//
// A table that is refused stays as it was. The Services at fault are then found by halves, in chains that no packet comes to, and all others are written; a Service is
// in place in both families or in none, except that a host without IPv6 has its IPv4. What the kernel lacks is found out before anything is written: one error names the
// module and the kernel option; without xt_recent or xt_sctp only those Services fail that need it. Somebody who flushes a table is noticed by [Dataplane.Watch] within
// [Options].Poll, 5 s, as iptables announces nothing. Not noticed is who changes a rule of ours but neither the first of a chain nor their number. nat is written before filter: between the
// two a Service that loses its last endpoint is for some milliseconds neither translated nor refused.
//
// # Cost
//
// 5,000 Services with 10 endpoints (Linux 6.18, iptables 1.8.9, 2 busy cores): first sync 1.3 s with the legacy variant, 3.0 s with nft; one change 0.2 s and 0.08 s; a restart that finds everything in
// place 0.9 s and 1.9 s. The legacy kernel takes a whole table at a time, so a change costs what the table is large; its programs print it to find out what is there. A sync without changes starts no process.
//
// # Privileges and versions
//
// CAP_NET_ADMIN, and CAP_SYS_ADMIN to enter another namespace; /run/xtables.lock shared with the host. iptables 1.6.2 (--random-fully), legacy or nft, 1.8.7 or later advised. Elsewhere errors match [errors.ErrUnsupported].
//
// # Concurrency
//
// A [Dataplane] may be used by several goroutines, and a host by several with different names. Two processes with the same name undo each other's work.
package iptables
