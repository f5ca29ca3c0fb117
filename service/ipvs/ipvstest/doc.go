// Package ipvstest has a kernel for tests that keeps IPVS in memory, and sends packets through it.
//
// # What it does
//
// [IPVS] has the methods of ipvs.Conn and is as strict as the kernel: what exists cannot be added, what is missing cannot be changed, a scheduler may be lacking, the whole module too.
// [Node] is a network namespace with such an IPVS, with the nftables of nfnltest, which runs the rules that were written, and with the addresses and routes of rtnltest. [Node.Lookup]
// sends the first packet of a connection through all of them in the order of the kernel's hooks, and visits every real server that a scheduler could choose:
//
//	n := ipvstest.NewNode()
//	n.SetMachine(machine)
//	r := service.New(ipvs.New(n.Kernel(), ipvs.Options{}), service.Options{})
//	_, err := r.Apply(ctx, want)
//	v, err := n.Lookup(servicetest.Packet{From: client, To: vip, Port: 80, Protocol: service.TCP, In: "eth0"})
//
// # What it is true to
//
// [Contract] runs on the fake and on the real kernel, and both have to give the same answers. What the walk says of the flow tables, real packets say too (TestWireFlows in package ipvs).
//
// # What it lacks
//
// Connections pass only if [IPVS.SetConnections] says so, nothing times out, and schedulers choose all. The kernel's check for martian packets is not there.
//
// # What it owns
//
// Memory. It needs no privilege. The Node is for Linux, since it speaks the kernel's encoding of nftables; IPVS works everywhere.
//
// # Concurrency
//
// Everything may be used by several goroutines at once; Fault and the exported fields are not to be changed meanwhile.
package ipvstest
