// Package ipvs is a dataplane for package service that forwards with the kernel's IPVS: schedulers, weights, persistence, and connections that end in peace when their endpoint goes.
//
// # What it does
//
// Each address and port of a Service is a virtual server (VS), each of its endpoints a real server (RS) that is reached by masquerading (NAT). An RS of TCP or SCTP that is not
// wanted any more gets the weight 0: its connections go on, new ones do not come; it goes when it has none. That is in the kernel, so a restart knows of it, and an endpoint that comes
// back gets its weight back. UDP goes at once. A VS by firewall mark serves NodePorts, on whatever addresses the node has at the moment, and what takes another way than
// clients from outside: with the external traffic policy Local, local pods and the node itself reach endpoints anywhere. Around IPVS stand
//
//   - local routes, by which the kernel takes packets to Services for its own: one per range in Node.ServiceCIDRs, one per other address, with an address of the node as their source;
//   - nftables, one table per family: who is masqueraded, by the first packet's destination in conntrack; what is dropped; source ranges; marks; and that no port of the
//     node itself is reachable at the address of a Service (kubernetes#72236), nor a pod's host port.
//
// A sync has an order: tables and routes, then VS and RS, then the end of marks and drops, then RS without weight, VS that go, and last their routes and records. A VS is never there
// before the masquerading that its clients need. An unchanged sync writes nothing; a changed endpoint costs one write, and the check of the RS that goes.
//
// Clients of a Service without endpoints get ICMP port unreachable from IPVS itself. Its own packet that a VS by mark leads to an RS with another port cannot be persistent (ip_vs_sched_persist
// does not translate the port): so a NodePort with session affinity has a VS at each address of the node, and pods and the node itself are kept on an endpoint of a Service with the external policy
// Local by hashing their address (scheduler sh), as long as its endpoints stay.
//
// # What it owns
//
// The tables "ip podnet-service-ipvs" and "ip6 podnet-service-ipvs" ([Options].Name appends its hash), while [Dataplane.Watch] runs two more with "-hold" behind their names, which have the kernel go
// on to masquerade when somebody flushes all rules (Linux 5.12), the routes of table local with [Options].Protocol, and each VS that stands in
// the sets frontends and marks of the tables. The sysctls net.ipv4.vs.conntrack, expire_nodest_conn, expire_quiescent_template and conn_reuse_mode, and with StrictARP
// net.ipv4.conf.all.arp_ignore and arp_announce, are set, read back, and left as they are by Cleanup. Marks of its own are 0xaa400000 to 0xaa7fffff; packets lose them before they leave.
//
// # What it never touches
//
// Other virtual servers: one where a Service wants its own fails that Service, unless [Options].Adopt takes it over. Other tables, addresses, devices; net.ipv4.ip_forward is
// somebody else's, and so are filters that drop forwarded packets. No process is started, no module loaded.
//
// # Failure
//
// A kernel without IPVS is [ErrNoIPVS]; one without a scheduler, or without conntrack for IPVS, is an error that names module and kernel option. A Service that the kernel refuses is in
// Result.Failed, all others are in place. The kernel tells nobody about changes of IPVS: Watch compares every [Options].CheckPeriod; it is told at once of changes of the tables and of
// the node's addresses.
//
// # What the kernel does, measured on Linux 6.1 with this package
//
//   - A VS or RS takes about 3 µs to write with a message of our own, many with one system call; github.com/moby/ipvs takes 13 times as long (5,000 VS with 10 RS each: 2.4 s and 31 s in an
//     emulated guest). It checks this package in tests.
//   - /proc/net/ip_vs has everything in one read, but leaves out VS where other network namespaces have some too; these are asked for one by one.
//   - For two minutes it keeps RS that were deleted in a list, and looks through all of it for each RS that is added: 50,000 added right after 50,000 were deleted take 50 s.
//   - When it has to load the modules of lblc or lblcr while a network namespace ends, all namespaces hang for ever: so these have to be loaded before.
//   - A connection that is silent for 15 minutes is forgotten ([Options].Timeouts); its next packet is answered with a reset.
//   - While an address drains, new connections to it are refused; for an address in Node.ServiceCIDRs they are dropped.
//
// # Privileges and versions
//
// CAP_NET_ADMIN, and CAP_SYS_ADMIN to enter another network namespace; the sysctls must be writable. Linux 5.9, ip_vs with CONFIG_IP_VS_NFCT (and CONFIG_IP_VS_IPV6), nf_tables with NAT, fib and reject.
//
// # Concurrency
//
// A [Dataplane] and a [Conn] may be used by several goroutines at once. Only one Dataplane of a name may be at work in a network namespace.
package ipvs
