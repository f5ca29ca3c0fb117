// Package masq translates the source address of pod traffic that leaves the cluster (SNAT, "masquerading"), and of nothing else.
//
// # What it does
//
// Outside the cluster nobody knows a way back to a pod's address, so packets from pods to the outside get an address of the node, with a fully random
// port: the kernel's default search for a free port loses packets when many connections start at once (insert_failed, the "DNS takes 5
// seconds" of kubernetes#56903). A [Config] names the ranges; [Reconciler.Apply] makes the rules so. Per family, in order:
//
//	1  marked 0x4000/0x4000               return      the service proxy masquerades it; twice breaks it (flannel#1679)
//	2  local pod -> cluster               return      pods see each other's own addresses
//	3  cluster -> local pod               return      likewise
//	4  outside -> local pod               return      the pod sees the client (externalTrafficPolicy=Local, flannel#734)
//	5  cluster -> cluster, multicast,
//	   NonMasquerade                      return      never translated
//	   cluster -> anything else           masquerade  the way out
//	6  outside (this node) -> remote pod  masquerade  the reply comes back through the tunnel (flannel#318)
//
// # What it owns
//
// With nftables the tables "ip podnet-masq" and "ip6 podnet-masq", with iptables the chains PODNET-MASQ (nat) and PODNET-FWD (filter, only
// with [Config].Forward) and one jump to each. [Options].Name appends its hash. Everything in them is ours; each rule carries a fingerprint in its
// comment, so that observing means comparing comments in order. CIDR lists are anonymous sets inside the rules: nobody can
// empty them. One table per family, not one inet table: NAT in inet tables needs Linux 5.2, and a host without IPv6 still gets its IPv4 rules.
//
// # What it never touches
//
// Other tables, other chains, policies, sysctls. It does not turn on forwarding (net.ipv4.ip_forward). With nftables it cannot overrule a drop in another
// table, see [Config].Forward.
//
// # Failure
//
// A rule that is missing, doubled, moved or replaced makes [Reconciler.Plan] non-empty and is repaired by Apply. A table is replaced in one
// nftables transaction (a chain in one iptables-restore), so no packet meets half a set, and a refused write changes nothing. A
// family that fails does not stop the other. Not noticed is only who changes a rule and keeps its comment. [Reconciler.Watch] tells of a flush at once with nftables; iptables has to be polled.
// Changing from one backend to the other: Apply with iptables removes the nftables tables; Apply with nftables does not look into
// iptables, because looking costs a process; Apply of the zero Config removes both. Until then the leftover
// acts on the Config that it was made from.
//
// # Cost
//
// Observing nftables takes one netlink socket and one request per family, and no process (a tenth of the time of one "nft list table", measured on Linux 6.18).
// Only writing runs nft: five times at a process's first write, then once per family. The iptables backend runs one iptables-save per
// family to observe.
//
// # Privileges and versions
//
// CAP_NET_ADMIN; CAP_SYS_ADMIN to enter another namespace. Linux 4.18 (nftables NAT beside iptables NAT, interval sets), nft 1.0.1,
// or iptables 1.6.2 (--random-fully). Elsewhere errors match [errors.ErrUnsupported].
//
// # Concurrency
//
// A [Reconciler] may be used by several goroutines and processes at once: writes are whole sets, the last one wins.
package masq
