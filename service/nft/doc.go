// Package nft puts the programs of package service into nftables, over netlink: shared maps, no chain, set or map per Service, one atomic transaction per Apply, and no nft binary.
//
// # What it does
//
// One table per family, "ip podnet-service" and "ip6 podnet-service", made when there is something to do in that family. A packet that opens a connection meets the chain
// prerouting, or output if the node itself sends it (both of type nat: they see the first packet of a connection only), which jumps to the chain services:
//
//	frontends   address . protocol . port    ->  0 . class . id       who is it for? NodePorts have the address 0.0.0.0 or ::
//	classes     class                        ->  goto CHAIN           what is done for such
//	endpoints   id . index                   ->  address . port       one of them
//
// An id is one port of one Service in one family. A class is all that frontends have in common as to what is done with their packets: how pods, the node and others are
// treated (to the Cluster's endpoints, to the Local ones, reject, drop; masqueraded or not), how many endpoints there are to choose from, and the session affinity. Thousands of Services share
// a few classes; the name of a class's chain says all of it, such as "pod-cluster3_host-cluster3-masq_other-local1". In the chain a rule marks what is to be masqueraded, and the next
// one chooses: it looks up the id in frontends, draws a number below the count of endpoints (numgen), looks up id and number in endpoints, and translates the destination. Indices are
// therefore dense: 0 to n-1 for the Cluster's endpoints, 0x80000000 to 0x80000000+m-1 for the Local ones. An endpoint that stays keeps its index; when one goes, the last takes its place. So
// one endpoint more or less is about nine elements, whatever the number of Services is. testdata holds whole tables as text.
//
// Lookups whose key is the result of a lookup are no part of nft's language: the rules are written as expressions. nft shows the elements well, but prints such
// rules wrongly ("th dport . numgen random mod 3 map @endpoints-1024"); they are laid out so that it does not stumble over them (see exprs_linux.go). Never feed "nft list ruleset" back for this table.
//
// The other sets:
//
//	active       address . port . id . kind               which endpoints a client may stay with (Services with affinity)
//	affinity     id . kind . client -> 0 . address . port    filled by packets, with the Service's timeout; it outlives endpoint changes and restarts of the process
//	restricted   address . protocol . port                frontends with source ranges: those packets pass the chain firewall first
//	sources      id . length . masked client              source ranges; the chain firewall has one rule per length that is in use
//	cluster-ips  address                                  a port that no Service has is refused there
//	hairpin      address . address                        local endpoints: a connection of one to itself is masqueraded
//
// Without endpoints the class's chain refuses with ICMP port unreachable; a traffic policy Local without local endpoints drops. Both happen in the nat chains,
// so no connection is recorded that would later be stuck. Packets to Node.ServiceCIDRs that no Service has are dropped. The chain postrouting masquerades marked packets, with a
// random port, and clears the mark.
//
// Sets that grow with the cluster have a size, which is part of their name: the kernel keeps them in tables of fixed length, where adding takes half the time. One that gets full is replaced
// by a larger one in the same transaction; then all its elements are written again, so n elements are written at most twice on the way to n.
//
// No map with many elements holds verdicts: for each new verdict the kernel validates the table, and that walks through all elements of maps with verdicts.
//
// # What it owns
//
// The two tables, with all that is in them, and while [Dataplane.Watch] runs two more with "-hold" behind their names, which do nothing to packets: they belong to a socket of the process, so a flush of
// all rules passes over them and the kernel goes on to translate the connections that it has (Linux 5.12; they are gone with the process). [Options].Name gives an instance tables of its own. Each rule has the fingerprint of its chain in its comment, so that
// another version of this package, or a foreign rule, is noticed. Ids, classes and indices are read back from the kernel: a restart compares and writes what differs, in
// the steady state nothing.
//
// # What it never touches
//
// Other tables, sysctls (net.ipv4.ip_forward must be on), conntrack entries. It cannot overrule a drop in somebody else's filter chain. Packets to 127.0.0.1 never reach a NodePort. Of the packet mark it uses
// one bit.
//
// # Failure
//
// A transaction is done whole or not at all. What the kernel refuses is a Service's failure by the element's place in the transaction: that Service stays as it was, all others are written.
// A transaction that the socket cannot take is split. After any other error the next Apply looks at the kernel first; it compares with what it finds, so it does not matter what became of the
// last transaction. A packet that looks up its class before a transaction and its endpoint after it, and meets a gap, goes to the first endpoint: no connection fails while
// endpoints come and go. When affinity has no place for more clients they are served without. A flush, a deleted element or chain, a foreign rule: [Dataplane.Watch] tells of it at once, and the Reconciler
// repairs it in about 0.1 s. What was recorded in between without translation stays so in connection tracking: package conntrack lets go of it (Config.Restored). Only who changes a rule and keeps its comment is not noticed, nor entries in affinity.
//
// A kernel that lacks something is one error that names module and option; nothing is written then.
//
// # Cost
//
// Measured on Linux 6.18 (go test -bench ., processor time, on a machine that others used too):
//
//	first sync of 5,000 Services with 10 endpoints each     0.08 to 0.13 s in the kernel, 0.014 s here
//	10,000 with 5; 50,000 with 2; 1 with 100,000            0.14; 0.2 to 0.7; 0.19 s in the kernel, 0.02; 0.10; 0.02 s here
//	one endpoint more or less, 1,000 to 50,000 Services     0.02 ms, of which half in the kernel; with 100,000 endpoints 5 to 11 ms
//	restart with 5,000 and 10; with 50,000 and 2            0.09 s; 0.5 s, and nothing is written
//
// The kernel needs 1 to 3 microseconds for each element; the same bytes sent raw take what it takes. Its dump is quadratic, so a restart with ten times as many
// elements takes more than ten times as long. The change after a very large transaction waits until the kernel has freed that (0.3 s after 550,000 elements). A new connection costs four
// lookups in hash tables.
//
// Listening for foreign changes is paused while we write: else the kernel would make a notification of each element. Others who listen (nft monitor, other agents) cost that time.
//
// # Privileges and versions
//
// CAP_NET_ADMIN in the network namespace; in the initial user namespace it allows transactions above net.core.wmem_max. Linux 5.9 (reject from prerouting); elements are deleted from rules since 5.4. Tested
// on 6.1 and 6.18. Modules: nf_tables, nft_chain_nat, nft_ct, nft_masq, nft_fib_ipv4 and _ipv6, nft_numgen, nft_reject_ipv4 and _ipv6. On other systems errors match [errors.ErrUnsupported].
//
// # Concurrency
//
// A [Dataplane] may be used by several goroutines at once. Two processes with the same Name undo each other's work.
package nft
