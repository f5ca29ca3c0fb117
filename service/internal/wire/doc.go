// Package wire sends real packets through a real kernel, to learn what it does with them: the walk of servicetest with nothing in between.
//
// What it does: New makes a network namespace that stands for a node, with the devices eth0, cni0 and cni01 whose other ends are in a second namespace.
// Lookup makes the first packet of a connection as often as it takes to meet every endpoint that chance chooses, lets it in through its device (or sends it from the node
// itself), and looks where it comes out: at another device with another destination and perhaps another source, at the node's own sockets, as an ICMP error, or not
// at all. A packet that nobody has touched follows each burst through the same queues; when it is seen, the fate of the burst is decided, so nothing waits for time to pass.
//
// With session affinity a client meets only one endpoint: Lookup then tells a sample.
//
// What it owns: both namespaces, which go with the test. It never touches another.
//
// Failure: what cannot be set up fails the test; a kernel that loses the packet behind a burst is an error of Lookup.
//
// Privileges: root, on Linux, see rtnltest.NewNetns. Concurrency: none.
package wire
