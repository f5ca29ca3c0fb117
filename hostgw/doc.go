// Package hostgw connects the pods of nodes that share a segment by plain routes: each node is the gateway to its own pods. There is no
// tunnel, no overhead, and pods have the MTU of the uplink.
//
// What it does: for each [Peer] on the segment of the underlay it has the kernel keep
//
//	ip route add 10.244.2.0/24 via 192.168.0.2 dev eth0 proto 113
//
// A peer is on the segment if the kernel's main table reaches its address over the underlay without a gateway. One that is not cannot be
// served this way (the router in between knows nothing of pods): it is refused, with the reason in its [PeerError], and needs package
// vxlan, whose DirectRouting joins both ways.
//
// What it owns and how it recognises it: the routes of the main table with protocol [rtnl.ProtocolHostGW]. Hence one Config per network
// namespace.
//
// What it never touches: devices, addresses, and routes of any other protocol. One of those in the place of a peer's route is kept, and
// reported as that peer's error. Applying the zero Config removes what is owned and nothing else.
//
// Failure: a fault of the node's own part, or an underlay that is missing or down, is an error and changes nothing: what is there stays.
// A fault of one peer (a bad value, not on the segment, something that another peer has already) is a [PeerError], and the others are done.
// Two peers that claim the same do not alternate: the first by name has it. A route that changes is replaced in place. A write that
// fails does not stop those behind it; the next Apply tries again.
//
// Privileges and kernel: writing needs CAP_NET_ADMIN in the user namespace that owns the network namespace; any Linux since 4.20.
//
// Concurrency: a [Reconciler] keeps no state and starts no goroutine. It may be used by several, but two Applies at once in one namespace
// get in each other's way until the next.
package hostgw
