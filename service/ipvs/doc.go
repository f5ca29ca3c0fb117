// Package ipvs puts programs of package service into IPVS, the load balancer of the Linux kernel: what kube-proxy's mode ipvs does, without ipset and iptables, and with its semantics put right.
//
// # What it does
//
// A frontend is a virtual server at its address, protocol and port; its usable endpoints are real servers (NAT, weight 1). What IPVS cannot say by itself is said around it:
//
//	which clients         A virtual server knows no source. Clients for whom another endpoint set counts (externalTrafficPolicy Local, for pods and the node itself) get a packet
//	                      mark in nftables, and a virtual server by mark takes precedence over that at the address. NodePorts are virtual servers by mark too, so that new
//	                      addresses of the node count at once; with affinity, where a mark cannot translate the port, there is one at each address.
//	drop, source ranges   sets in nftables, before IPVS
//	masquerade, hairpin   nat postrouting at priority 95, before package masq: by the connection's first destination (vs/conntrack=1), or by the mark
//	host ports            Addresses of Services are local, so all ports of the node would be reachable at them (kubernetes#72236): what IPVS did not take is refused
//	local addresses       a local route per ServiceCIDR or address, with the node's address as source, instead of an address on a device: the device of kube-proxy takes
//	                      quadratic time, and its addresses become sources of packets
//
// Order: what a client needs (sets, masquerading, routes) is there before the virtual server that leads to it, and goes after it.
//
// # Drain
//
// A real server that is not wanted gets weight 0 and keeps its TCP connections until they have ended, or Options.MaxDrain; UDP and SCTP end at once. The weight in the kernel is the only record, so
// a drain outlives a restart, and a Service that is gone keeps its address until its last connection ends. An endpoint that comes back gets its weight back.
//
// # What it owns
//
// The tables "ip podnet-service-ipvs" and "ip6 podnet-service-ipvs"; the virtual servers that are in the map frontends or marks there (written before the server); local routes with its
// protocol number; the settings net.ipv4.vs.conntrack, expire_nodest_conn, expire_quiescent_template and conn_reuse_mode, which are checked after they are set and not put back.
//
// # What it never touches
//
// Virtual servers of others: one that is where a Service wants one makes that Service fail, unless Options.Adopt. Devices, addresses, other tables. It does not turn on forwarding.
//
// # Failure
//
// A kernel without IPVS is [ErrNoIPVS], which says which module and option; IPVS would otherwise answer nothing. A scheduler that the kernel lacks fails the Services that want it. An object that is
// refused fails its Service, which is read again before the next write. Flushed tables, routes and new addresses of devices are noticed at once by [Dataplane.Watch]; virtual servers, of which the kernel tells nobody,
// within Options.CheckPeriod.
//
// # Cost
//
// IPVS takes one object per message under one lock. Messages are encoded here, many to a system call; /proc/net/ip_vs is read for all connections at once instead of one dump per virtual server.
//
// # Privileges and versions
//
// CAP_NET_ADMIN in the network namespace, and write access to /proc/sys/net/ipv4/vs. Linux 5.9; run on 6.1. Elsewhere errors match [errors.ErrUnsupported].
//
// # Concurrency
//
// A [Dataplane] may be used by several goroutines at once; two with one name in a network namespace fight.
package ipvs
