// Package vxlan connects the pods of all nodes by VXLAN tunnels (RFC 7348), in the wire format of flannel: a node of either kind can
// speak with the other.
//
// # What it does
//
// Every node has one tunnel endpoint (VTEP) per address family: a vxlan device. Given its own [Endpoint]s and the list of [Peer]s, a
// [Reconciler] makes the devices, and for each peer what it takes to reach the pods there. For a peer n2 with the pods 10.244.2.0/24, the
// address 192.168.0.2 and a VTEP whose MAC is 0a:00:00:00:00:02, that is
//
//	bridge fdb add 0a:00:00:00:00:02 dev podnet.1 dst 192.168.0.2 self permanent
//	ip neigh add 10.244.2.0 lladdr 0a:00:00:00:00:02 dev podnet.1 nud permanent
//	ip route add 10.244.2.0/24 via 10.244.2.0 dev podnet.1 onlink proto 112
//
// # Route, neighbour, FDB: three look-ups
//
// A VXLAN device is an Ethernet port whose cable is an IP network. A packet from a pod here to 10.244.2.7 takes three look-ups, each of which
// answers another question, in another table, with what the one before it found.
//
// The route answers "who is next?" on layer 3: 10.244.2.0, through podnet.1. Nobody has to listen on that address for it to serve as a
// gateway; it is the network address of the peer's pods, so no pod has it and no node needs a further address for it. It is on no
// connected subnet either, hence onlink. One gateway for the whole range is what keeps the next table short: one entry per node, not one per pod.
//
// The neighbour table (ARP for IPv4, NDP for IPv6) answers "which Ethernet address has the next one?": 10.244.2.0 has the MAC of the VTEP
// on n2. An ordinary port would ask by broadcast. Here there is no broadcast: nobody has told the device whom to flood to, and in
// a cluster of thousands nobody should. So each answer is written beforehand, as a permanent entry, which does not age either.
//
// The FDB, the forwarding database that a bridge has too, answers "behind which outer address is that Ethernet address?": the VTEP's MAC
// is behind 192.168.0.2. A bridge learns this from the frames it sees; so would the device, from anyone who sends it a packet with a false
// inner source. Hence nolearning: only what is written here counts. It is the device itself that looks here (self), not a bridge above it.
//
// The frame is then packed into UDP from here to 192.168.0.2 and routed as any packet of the node's own. At n2 the inner destination MAC
// is the device's own, so the packet goes up the stack and on to its pod.
//
// Neighbour and FDB entry both hold the peer's MAC and are easily taken for the same. They are not: a wrong neighbour entry gives frames
// that n2 receives and drops, for they are not addressed to it; a wrong FDB entry gives frames that go to another node, and are dropped there.
// A peer that comes back with a new MAC needs both, one with a new address only the FDB.
//
// # Order
//
// New entries are written from the bottom up: FDB, neighbour, nexthop, route. Were the route first, the kernel would meet packets for a gateway
// whose MAC it does not know, and make an entry of its own to ask for it. What is no longer wanted is deleted last, from the top down. A
// route, a neighbour and an FDB entry that change are replaced in place: between the old and the new there is no moment with neither.
//
// # Direct routing
//
// With [Config.DirectRouting] a peer that the kernel reaches over the underlay without a gateway gets a plain route to its own address
// instead, no neighbour and no FDB entry: between the two there is no tunnel, no overhead and no smaller MTU.
//
// # Many peers
//
// Above [Options].NexthopsAbove peers the gateway moves out of the IPv4 route into a nexthop object of its own:
//
//	ip nexthop add id 1879048192 via 10.244.2.0 dev podnet.1 onlink proto 112
//	ip route add 10.244.2.0/24 nhid 1879048192 proto 112
//
// The way of a packet is the same. It is the writing that differs: the kernel finds an equal gateway by a hash that leaves out the gateway, so that the
// n-th route through one device is compared with the n-1 before it. On Linux 6.18, 20,000 routes take 4.9 s in the one form and 0.4 s
// in the other. Crossing the threshold replaces the routes in place, and back it goes only at half of it.
//
// # Ownership
//
// What it owns and how it recognises it: vxlan devices with the ifalias [Alias], and all neighbour and FDB entries and addresses (but link-local
// ones) on them; routes of the main table and nexthops with protocol [rtnl.ProtocolVXLAN]. Hence one Config per network namespace. A vxlan
// device with the wanted name and no alias is adopted if it is just what is wanted, so that it need not be made again.
//
// What it never touches: other devices, the underlay included; routes and nexthops of other protocols. One of those in the place of a
// peer's route is kept, and reported as that peer's [PeerError]. Applying the zero Config removes what is owned and nothing else.
//
// # Failure
//
// A fault of the node's own part, or an underlay that is missing or down, is an error and changes nothing: what is there stays. A fault
// of one peer (a bad value, something that another peer has already) is a [PeerError], and a family whose device cannot be had keeps
// what it has; all the others are done. Two peers that claim the same do not alternate: the first by name has it. A write that fails does
// not stop those behind it; the next Apply tries again, from what the kernel has by then.
//
// # MTU
//
// The tunnel takes 50 bytes of each packet over IPv4 and 70 over IPv6; see [MTUFor]. With MTU 0 the device follows its underlay.
//
// # Privileges, kernel, concurrency
//
// Writing needs CAP_NET_ADMIN in the user namespace that owns the network namespace; the kernel needs CONFIG_VXLAN. Linux 4.20 and later;
// nexthop objects are used where there are any (5.3). A [Reconciler] keeps no state and starts no goroutine. It may be used by several, but
// two Applies at once in one namespace get in each other's way until the next.
package vxlan
